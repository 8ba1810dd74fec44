"""The files in conf/ are good, with what is commented out in them too."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest

from muxwsgi.cli.options import ALL, collect

CONF = Path(__file__).parents[2] / "conf"


@pytest.mark.parametrize("path", sorted(CONF.glob("*.toml")), ids=lambda path: path.name)
def test_every_setting_of_the_file_is_an_option(path: Path) -> None:
    collect({}, str(path), {})
    known = {option.name for option in ALL}
    lines = re.findall(r"^(?:# )?([a-z_]+ = .*)$", path.read_text().partition("\n[")[0], re.M)  # keys of tables have tests of their own
    assert lines
    for line in lines:
        name = line.partition(" = ")[0]
        assert name in known, name
        option = next(option for option in ALL if option.name == name)
        option.read(tomllib.loads(line)[name], name)


def test_the_nftables_file_is_one() -> None:
    checked = subprocess.run(["nft", "--check", "--file", str(CONF / "transparent.nft")], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr
