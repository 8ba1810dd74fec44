"""What a matcher can say of the bytes seen so far."""

from enum import Enum

__all__ = ["Match"]


class Match(Enum):
    """The three verdicts. After `YES` or `NO`, more bytes of the same stream never change a matcher's answer.
    """

    YES = "yes"
    NO = "no"
    MORE = "more"
