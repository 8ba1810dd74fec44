"""`StaticFiles`: a WSGI application that serves the files of a folder, without a list of what is in it.

A name that begins with a dot is not served, except `.well-known` (RFC 8615). A symbolic link is followed if it stays in the folder. For a
folder, its `index.html` is sent. Beside `app.js` may stand `app.js.br`, `app.js.zst` and `app.js.gz`: a client that accepts the coding gets
such a file, if it is not older than `app.js`.
"""

import errno
import mimetypes
import os
from collections.abc import Callable, Iterable
from functools import lru_cache
from time import monotonic
from typing import Any
from urllib.parse import quote

from muxwsgi.errors import OperatorError
from muxwsgi.http.accept_encoding import accepted_codings
from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.http.static.files import Fields, NotThere, OpenFile, answer, respond

__all__ = ["StaticFiles", "WithStaticFiles", "content_type"]

#: Codings of files beside, with the ends of their names. Of those that a client likes equally, the first is sent.
_CODINGS = {"br": b".br", "zstd": b".zst", "gzip": b".gz"}
_IN_ORDER = tuple(_CODINGS)

#: Seconds for which the place of the folder is remembered. It may be a symbolic link that a deployment exchanges.
_REMEMBERED = 1.0

#: From Python's own table, and not from the machine's, so that a file has the same type everywhere.
_TYPES = mimetypes.MimeTypes()
for _end, _type in (
    (".avif", "image/avif"),
    (".js", "text/javascript"),
    (".mjs", "text/javascript"),
    (".md", "text/markdown"),
    (".map", "application/json"),
    (".webmanifest", "application/manifest+json"),
    (".webp", "image/webp"),
    (".woff", "font/woff"),
    (".woff2", "font/woff2"),
    (".wasm", "application/wasm"),
    (".yaml", "application/yaml"),
    (".yml", "application/yaml"),
):
    _TYPES.add_type(_type, _end)

#: Types of text that do not begin with `text/`.
_TEXTS = ("application/json", "application/xml", "application/manifest+json", "application/yaml", "image/svg+xml")


@lru_cache(maxsize=1024)
def content_type(name: str) -> str:
    """The Content-Type of a file by its name; texts are UTF-8."""
    # Of a URL it takes the type that is in a data: URL, and an upload may have any name. With a slash in front it is no URL.
    kind, coding = _TYPES.guess_type("/" + os.path.basename(name), strict=True)
    if coding is not None:  # the file is the compressed one itself, and is sent as it is
        return {"gzip": "application/gzip", "br": "application/x-brotli"}.get(coding, "application/octet-stream")
    if kind is None:
        return "application/octet-stream"
    return f"{kind}; charset=utf-8" if kind.startswith("text/") or kind in _TEXTS else kind


class StaticFiles:
    """The files below `folder`. The path is PATH_INFO."""

    def __init__(self, folder: str, *, max_age: int | None = None) -> None:
        """`max_age`: seconds that clients may keep a file without asking (Cache-Control); None says nothing. Raises `OperatorError`."""
        self._folder = os.fsencode(os.path.abspath(folder))
        if not os.path.isdir(self._folder):
            raise OperatorError(f"static: {folder}: {os.strerror(errno.ENOTDIR if os.path.exists(self._folder) else errno.ENOENT)}")
        self._fields: Fields = [] if max_age is None else [("Cache-Control", f"public, max-age={max_age}")]
        self._root = b""
        self._root_until = 0.0

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        return self.answer(environ, start_response, environ["PATH_INFO"])

    def answer(self, environ: Environ, start_response: Callable[..., Any], place: str) -> Iterable[bytes]:
        """Answer with the file at `place`, as PATH_INFO spells it."""
        if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
            return answer(start_response, "405 Method Not Allowed", [("Allow", "GET, HEAD")])
        path = place.encode("latin-1")
        try:
            if path.endswith(b"/") or path == b"":
                if path == b"":
                    return _to_folder(environ, start_response)
                path += b"index.html"
            name = _relative(path)
            return self._send(environ, start_response, name)
        except NotThere:
            return answer(start_response, "404 Not Found", [])
        except _IsFolder:
            return _to_folder(environ, start_response)

    def _send(self, environ: Environ, start_response: Callable[..., Any], name: bytes) -> Iterable[bytes]:
        root = self._place()
        path = root + b"/" + name
        fields: Fields = [("Content-Type", content_type(os.fsdecode(name))), *self._fields]
        try:
            file = OpenFile(path, root)
        except NotThere:
            if os.path.isdir(path):
                _check_below(path, root)
                raise _IsFolder from None
            raise
        if fields[0][1].startswith(("text/", "application/javascript", "application/wasm", *_TEXTS)):
            fields.append(("Vary", "Accept-Encoding"))
            for coding in accepted_codings(environ.get("HTTP_ACCEPT_ENCODING", ""), _IN_ORDER):
                try:
                    beside = OpenFile(path + _CODINGS[coding], root)
                except (NotThere, OSError):
                    continue
                if beside.validators.modified < file.validators.modified:
                    beside.close()
                    continue
                file.close()
                return respond(environ, start_response, beside, [*fields, ("Content-Encoding", coding)])
        return respond(environ, start_response, file, fields)

    def _place(self) -> bytes:
        """The folder without symbolic links."""
        now = monotonic()
        if now >= self._root_until:
            self._root = os.path.realpath(self._folder).rstrip(b"/")
            self._root_until = now + _REMEMBERED
        return self._root


class _IsFolder(Exception):
    """The path names a folder, without a slash at its end."""


class WithStaticFiles:
    """A WSGI application that serves folders below their prefixes, and everything else by `app`."""

    def __init__(self, app: WSGIApplication, folders: dict[str, StaticFiles]) -> None:
        """`folders` by prefix, such as `/static`."""
        self.app = app
        self._folders = sorted(folders.items(), key=lambda each: -len(each[0]))  # the longest prefix first

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        for prefix, folder in self._folders:
            if path.startswith(prefix) and path[len(prefix) : len(prefix) + 1] in ("", "/"):
                return folder.answer(environ, start_response, path[len(prefix) :])
        return self.app(environ, start_response)


def _relative(path: bytes) -> bytes:
    """`path` below the folder. Raises `NotThere` for one that could lead out of it, or that has another spelling."""
    if not path.startswith(b"/") or b"\0" in path or b"\\" in path:
        raise NotThere
    for part in path[1:].split(b"/"):
        if part == b"" or (part.startswith(b".") and part != b".well-known"):
            raise NotThere
    return path[1:]


def _check_below(path: bytes, root: bytes) -> None:
    if not os.path.realpath(path).startswith(root + b"/"):
        raise NotThere


def _to_folder(environ: Environ, start_response: Callable[..., Any]) -> list[bytes]:
    """Redirect to the path with a slash at its end. The place has no host, and does not begin with two slashes, which would be one."""
    place = environ.get("SCRIPT_NAME", "") + environ["PATH_INFO"] + "/"
    place = "/" + quote(place.encode("latin-1")).lstrip("/")
    query = environ.get("QUERY_STRING")
    return answer(start_response, "308 Permanent Redirect", [("Location", f"{place}?{query}" if query else place)])
