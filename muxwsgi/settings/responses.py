"""What is added to the responses of applications."""

import re
from dataclasses import dataclass

from muxwsgi.errors import OperatorError
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import HTTP

__all__ = ["ResponseSettings"]

#: A directive of Strict-Transport-Security (RFC 6797 section 6.1), as operators write it.
_DIRECTIVE = re.compile(r"(max-age)\s*=\s*(\"?)([0-9]{1,10})\2|(includesubdomains)|(preload)", re.IGNORECASE)

#: What the list of browsers for `preload` asks for (hstspreload.org).
_PRELOAD_AT_LEAST = 31536000


@dataclass(frozen=True, kw_only=True, slots=True)
class ResponseSettings:
    """What is added to the responses of applications. Not for a proxy, which passes responses on."""

    hsts: str = setting(
        "",
        "Tell browsers to use https alone from now on, by Strict-Transport-Security in responses over https, as in max-age=31536000; "
        "includeSubDomains. Not in responses that have the field.",
        section=HTTP,
        unit="DIRECTIVES",
    )
    server_timing: bool = setting(
        False,
        "Add Server-Timing to responses: what the application took until the response began, and what the request had waited before. "
        "Every client sees it.",
        section=HTTP,
    )

    def __post_init__(self) -> None:
        check(self)
        if self.hsts:
            _ = self.strict_transport_security  # parsed here, for its errors

    @property
    def strict_transport_security(self) -> str:
        """The value of the field; "" for none."""
        if not self.hsts:
            return ""
        age: int | None = None
        flags: list[str] = []
        for text in self.hsts.split(";"):
            found = _DIRECTIVE.fullmatch(text.strip())
            if found is None:
                raise OperatorError(f"hsts: {text.strip()!r} is not max-age=SECONDS, includeSubDomains or preload")
            name = "max-age" if found[1] else "includeSubDomains" if found[4] else "preload"
            if name in flags or (name == "max-age" and age is not None):
                raise OperatorError(f"hsts: {name} is given twice")
            if found[1]:
                age = int(found[3])
            else:
                flags.append(name)
        if age is None:
            raise OperatorError("hsts: max-age=SECONDS is missing")
        if "preload" in flags and (age < _PRELOAD_AT_LEAST or "includeSubDomains" not in flags):
            raise OperatorError(f"hsts: preload needs includeSubDomains, and a max-age of at least {_PRELOAD_AT_LEAST}")
        return "; ".join([f"max-age={age}", *flags])
