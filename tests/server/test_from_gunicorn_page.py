"""docs/from-gunicorn.md: its table has every setting of gunicorn, and says what is true of our options."""

import re
import sys
from pathlib import Path

import pytest

from muxwsgi.cli.gunicorn import SETTINGS, markdown, option_for
from muxwsgi.cli.options import OPTIONS
from tests import warm

PAGE = (Path(__file__).parents[2] / "docs" / "from-gunicorn.md").read_text()
#: The name and the flags of each setting, printed by gunicorn itself.
THEIRS = {
    line.split()[0]: tuple(line.split()[1:])
    for line in (Path(__file__).parent / "gunicorn_settings.txt").read_text().splitlines()
    if not line.startswith("#")
}
FLAGS = {flag: option for option in OPTIONS for flag in (option.flag, *option.flags)}


def test_the_table_is_printed_from_the_code() -> None:
    """If this fails: python -c 'from muxwsgi.cli import gunicorn, options; print(gunicorn.markdown(options.OPTIONS))'"""
    assert markdown(OPTIONS) in PAGE


def test_every_setting_of_gunicorn_is_in_it_with_its_flags() -> None:
    assert len(THEIRS) == 120
    assert {name: row.flags for name, row in SETTINGS.items()} == THEIRS


@pytest.mark.parametrize("row", SETTINGS.values(), ids=lambda row: row.name)
def test_each_row_is_true(row) -> None:  # type: ignore[no-untyped-def]
    option = option_for(row, OPTIONS)
    if row.ours:
        assert option is not None, "the option that the row names does not exist"
    if option is None:
        assert row.why or row.instead, "neither an option nor a reason"
        assert not set(row.flags) & set(FLAGS)
    else:
        for flag in row.flags:
            assert flag not in FLAGS or FLAGS[flag] is option, f"{flag} is another option here"
    for flag in re.findall(r"`(--[a-z][\w-]*)", row.remark if option else row.instead):
        assert flag in FLAGS or flag in ("--check-config", "--print-config", "--config")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-k", "gevent"], r"no option -k; every connection has a greenlet"),
        (["--threads", "4"], r"no option --threads; every connection has a greenlet"),
        (["--cert-reqs", "2"], r"no option --cert-reqs; here it is --client-certificates"),
        (["--logger-class", "x"], r"no option --logger-class; a handler, filter or formatter in `logconfig_dict` does it"),
        (["--log-file", "x"], r"no option --log-file; here it is --error-logfile"),
        (["--mitm"], r"`muxwsgi run` has no option --mitm; `muxwsgi proxy` and `muxwsgi check` have it"),
        (["--bnd", "x"], r"--bnd.*--bind"),
    ],
)
def test_an_option_of_gunicorn_or_of_another_command_is_answered_with_what_to_do(arguments: list[str], says: str) -> None:
    done = warm.run([sys.executable, "-m", "muxwsgi", "run", "app", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(rf"muxwsgi: error: .*{says}.*\n", done.stderr), done.stderr
