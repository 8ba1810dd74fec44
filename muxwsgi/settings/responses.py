"""What is added to the responses of applications."""

import re

from muxwsgi.errors import OperatorError
from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import HTTP

__all__ = ["ResponseSettings"]

#: A directive of Strict-Transport-Security (RFC 6797 section 6.1), as operators write it.
_DIRECTIVE = re.compile(r"(max-age)\s*=\s*(\"?)([0-9]{1,10})\2|(includesubdomains)|(preload)", re.IGNORECASE)

#: The content codings that there are, by their names in Content-Encoding.
CODINGS = ("gzip", "br", "zstd")

_TOKEN = r"[a-z0-9!#$&^_.+-]+"
_MEDIA_TYPE = re.compile(rf"{_TOKEN}/(?:{_TOKEN}|\*)|\*\+{_TOKEN}")

#: What the list of browsers for `preload` asks for (hstspreload.org).
_PRELOAD_AT_LEAST = 31536000


@record(kw_only=True)
class ResponseSettings:
    """What is added to the responses of applications. Not for a proxy, which passes responses on."""

    compress: str = setting(
        "",
        "Compress responses for clients that accept it, with these codings, the best first: gzip, br and zstd, as in br,gzip. br and zstd "
        "need muxwsgi[compress]. Pages with secrets need a look at docs/http.md first.",
        section=HTTP,
        unit="LIST",
    )
    compress_types: str = setting(
        "text/*,application/json,application/javascript,application/xml,application/x-ndjson,application/wasm,font/otf,font/ttf,"
        "image/bmp,image/vnd.microsoft.icon,*+json,*+xml",
        "The media types to compress. text/event-stream is one of them only if it is named.",
        section=HTTP,
        unit="LIST",
    )
    compress_min_size: int = setting(
        512, "Do not compress bodies that are known to be smaller.", section=HTTP, unit="BYTES", at_least=0
    )
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
        _ = self.types
        for coding in self.codings:
            if coding not in CODINGS:
                raise OperatorError(f"compress: {coding!r} is not {', '.join(CODINGS[:-1])} or {CODINGS[-1]}")
        if self.hsts:
            _ = self.strict_transport_security  # parsed here, for its errors

    @property
    def codings(self) -> tuple[str, ...]:
        """The content codings, the best first."""
        return tuple(dict.fromkeys(self.compress.lower().replace(",", " ").split()))

    @property
    def types(self) -> tuple[str, ...]:
        """`compress_types`: TYPE/SUBTYPE, TYPE/*, or *+SUFFIX."""
        types = tuple(dict.fromkeys(self.compress_types.lower().replace(",", " ").split()))
        for each in types:
            if not _MEDIA_TYPE.fullmatch(each):
                raise OperatorError(f"compress_types: {each!r} is not a media type such as text/html, text/* or *+json")
        return types

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
