"""The loads: what the clients do."""

from dataclasses import dataclass

__all__ = ["LOADS", "Load"]

#: What a browser sends: ten fields beside Host.
BROWSER_FIELDS = (
    "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36",
    "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8",
    "Accept-Language: en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding: gzip, deflate, br, zstd",
    "Cache-Control: max-age=0",
    "Upgrade-Insecure-Requests: 1",
    "Sec-Fetch-Site: same-origin",
    "Sec-Fetch-Mode: navigate",
    "Sec-Fetch-Dest: document",
    "Cookie: session=eyJ1c2VyIjo0Mn0.ZzK1Cg.4cN0b7Qm1yYk9wF2n3h5x8t6v0s; theme=dark",
)


@dataclass(frozen=True, kw_only=True)
class Load:
    """`wrk` with `connections` keep-alive connections, over TLS or not, each request with `fields`."""

    name: str
    tls: bool
    connections: int = 64
    fields: tuple[str, ...] = ()


LOADS = (
    Load(name="plain", tls=False),
    Load(name="tls", tls=True),
    Load(name="browser", tls=False, fields=BROWSER_FIELDS),
)
