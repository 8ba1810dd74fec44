"""What a matcher can say of the bytes seen so far."""

from collections.abc import Callable
from enum import Enum

__all__ = ["Match", "check_answers"]


class Match(Enum):
    """The three verdicts. After `YES` or `NO`, more bytes of the same stream never change a matcher's answer.
    """

    YES = "yes"
    NO = "no"
    MORE = "more"


#: What a matcher is asked once before it serves: nothing, text, a ClientHello's beginning, zeros.
_PROBES = (b"", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", bytes(64))


def check_answers(matcher: Callable[[bytes], Match]) -> None:
    """Raises `ValueError` where `matcher` answers with something else than a `Match`: True would never count as `YES`, and nobody would
    notice; inside of `all_of` and `not_`, False would."""
    for probe in _PROBES:
        try:
            answer = matcher(probe)
        except Exception:  # that is seen when it happens, with its traceback
            continue
        if not isinstance(answer, Match):
            raise ValueError(
                f"the matcher {matcher!r} answers {answer!r} to {probe[:8]!r}: a matcher answers Match.YES, Match.NO or Match.MORE"
            )
