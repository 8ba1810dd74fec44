"""docs/from-gunicorn.md: each row says what is true of the options that there are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from muxwsgi.cli.options import OPTIONS

PAGE = (Path(__file__).parents[2] / "docs" / "from-gunicorn.md").read_text()
FLAGS = {flag for option in OPTIONS for flag in (option.flag, *option.flags)} | {"-c"}
NAMES = {option.name for option in OPTIONS}


def rows() -> list[tuple[str, str, str]]:
    table = PAGE.split("| gunicorn | muxwsgi | |")[1].split("\n\n")[0].splitlines()[2:]
    return [tuple(cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:4]) for row in table]  # type: ignore[misc]


def flags(cell: str) -> list[str]:
    return re.findall(r"(?<![\w-])--?[a-z][\w-]*", " ".join(re.findall(r"`([^`]+)`", cell)))


@pytest.mark.parametrize(("theirs", "ours", "remark"), rows(), ids=lambda cell: cell[:30])
def test_each_row_is_true(theirs: str, ours: str, remark: str) -> None:
    if ours.startswith("the same"):
        assert set(flags(theirs)) <= FLAGS
        assert set(re.findall(r"`([a-z]+_[a-z]+)`", theirs)) <= NAMES
    elif ours in ("-", "not yet"):
        assert not set(flags(theirs)) & FLAGS
    else:
        assert flags(ours) or "muxwsgi check" in ours
    # Option names stand at the beginning of a quotation on the right. What is quoted otherwise, such as `fd://3`, has no dash in front.
    assert set(flags(ours) + flags(remark)) <= FLAGS


def test_there_are_rows() -> None:
    assert len(rows()) > 20


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["-k", "gevent"], r"no option -k; every connection has a greenlet"),
        (["--threads", "4"], r"no option --threads; every connection has a greenlet"),
        (["--mitm"], r"`muxwsgi run` has no option --mitm; `muxwsgi proxy` and `muxwsgi check` have it"),
        (["--bnd", "x"], r"--bnd.*--bind"),
    ],
)
def test_an_option_of_gunicorn_or_of_another_command_is_answered_with_what_to_do(arguments: list[str], says: str) -> None:
    done = subprocess.run([sys.executable, "-m", "muxwsgi", "run", "app", *arguments], capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert re.fullmatch(rf"muxwsgi: error: .*{says}.*\n", done.stderr), done.stderr
