"""Heads of responses that are kept: applications give the same fields again and again."""

__all__ = ["Header", "Rendered"]

Header = tuple[str, str]


class Rendered:
    """What was made of the `headers` of one status. They are tuples of two real strings each, so nothing about them can change.

    `dated` and `served` are whether Date and Server are among them.
    """

    __slots__ = ("block", "code", "dated", "headers", "length", "served")

    def __init__(self, headers: list[Header], code: int, block: bytes, length: int | None, *, dated: bool, served: bool) -> None:
        self.headers = headers
        self.code = code
        self.block = block
        self.length = length
        self.dated = dated
        self.served = served

    def is_for(self, headers: list[Header]) -> bool:
        """Whether `headers` are equal. Only a tuple of two real strings is compared: an instance of a subclass may be equal to a string
        and yet have other characters."""
        if len(headers) != len(self.headers):
            return False
        at = 0
        for known in self.headers:
            given = headers[at]
            at += 1
            if given is known:
                continue
            if type(given) is not tuple or len(given) != 2:
                return False
            name, value = given
            if type(name) is not str or type(value) is not str or value != known[1] or name != known[0]:
                return False
        return True
