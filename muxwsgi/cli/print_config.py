"""`--print-config`: the value of each option, and where it comes from. What is printed is a TOML file."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from muxwsgi.cli.option import Option

__all__ = ["printed"]


def printed(values: Mapping[str, Any], options: Iterable[Option]) -> Iterator[str]:
    """The lines, by section. `values` are those of `collect`. Passwords in URLs are not shown."""
    if values["config"]:
        yield f"# the file is {values['config']}"
    for remark in values["remarks"]:
        yield f"# {remark}"
    if values["hooks"].names:
        yield f"# the hooks of the file are {', '.join(values['hooks'].names)}"
    section = ""
    for option in options:
        if option.section != section:
            section = option.section
            yield f"\n# {section}"
        source = values["sources"].get(option.name, "default")
        value = values[option.name]
        yield f"# {option.name} is not set" if value is None else f"{option.name} = {_toml(value)}  # {source}"


def _toml(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_toml(each) for each in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(str(key))} = {_toml(each)}' for key, each in value.items())}}}"
    if not isinstance(value, (bool, int, float)):  # a table of a Python file may hold any object
        value = str(value)
    if isinstance(value, str):
        return json.dumps(re.sub(r"(?<=://)([^/@:]*):[^/@]*@", r"\1:***@", value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)
