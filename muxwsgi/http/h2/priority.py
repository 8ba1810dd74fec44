"""Priorities of streams (RFC 9218): the field Priority, and the same text in PRIORITY_UPDATE frames."""

import re

__all__ = ["URGENCY", "parse_priority"]

#: The urgency of a request that says nothing (section 4.1). 0 is the most urgent, 7 the least.
URGENCY = 3

_URGENCY = re.compile(r"u=([0-7])")
_INCREMENTAL = re.compile(r"i(?:=\?([01]))?")


def parse_priority(text: str) -> tuple[int, bool]:
    """The urgency, and whether the response is of use in parts. Members that are malformed or unknown are ignored (section 4)."""
    urgency, incremental = URGENCY, False
    for member in text.split(","):
        member = member.strip(" ")
        if found := _URGENCY.fullmatch(member):
            urgency = int(found[1])
        elif found := _INCREMENTAL.fullmatch(member):
            incremental = found[1] != "0"
    return urgency, incremental
