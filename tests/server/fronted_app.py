"""What an application learns of a client that comes through a proxy, as JSON."""

import json
from typing import Any

KEYS = ("REMOTE_ADDR", "REMOTE_PORT", "SERVER_NAME", "SERVER_PORT", "wsgi.url_scheme", "HTTP_HOST", "SCRIPT_NAME", "PATH_INFO", "HTTPS")


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    seen = {key: environ.get(key) for key in KEYS}
    seen |= {key: value for key, value in environ.items() if key.startswith(("SSL_", "HTTP_X_FORWARDED", "HTTP_FORWARDED"))}
    header = environ.get("muxwsgi.proxy_header")
    if header is not None:
        seen |= {"version": header.version, "alpn": header.alpn, "authority": header.authority, "unique_id": header.unique_id}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(seen).encode()]
