"""The answers of matchers."""

from collections.abc import Callable
from enum import Enum

__all__ = ["Match", "check_answers"]


class Match(Enum):
    """The three verdicts. After `YES` or `NO`, more bytes of the same stream never change a matcher's answer.
    """

    YES = "yes"
    NO = "no"
    MORE = "more"


#: First bytes that a matcher is tried with before it serves: none, text, the beginning of a ClientHello, zeros.
_PROBES = (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(64))


def check_answers(matcher: Callable[[bytes], Match]) -> None:
    """Raises `ValueError` where `matcher` answers with something else than a `Match`. A mux never takes True for `YES`, and
    `all_of` and `not_` would take False for it."""
    for probe in _PROBES:
        try:
            answer = matcher(probe)
        except Exception:  # the mux logs it with its traceback when it happens
            continue
        if not isinstance(answer, Match):
            raise ValueError(
                f"the matcher {matcher!r} answers {answer!r} to {probe[:8]!r}: a matcher answers Match.YES, Match.NO or Match.MORE"
            )
