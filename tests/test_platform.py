"""On anything but Linux there is one clear line."""

import sys

import pytest

import muxwsgi
from muxwsgi.__main__ import main


def test_the_command_says_where_it_runs(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("muxwsgi: error: muxwsgi runs on Linux alone, and this is darwin") and said.count("\n") == 1


def test_the_library_says_it_where_it_is_used_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    monkeypatch.delitem(vars(muxwsgi), "Server", raising=False)
    with pytest.raises(ImportError, match="runs on Linux alone, and this is win32"):
        getattr(muxwsgi, "Server")  # noqa: B009
    assert muxwsgi.OperatorError
