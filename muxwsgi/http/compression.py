"""`Compression`: response bodies are compressed on their way to clients that accept it (RFC 9110 sections 8.4 and 12.5.3).

It is a WSGI middleware, so it is the same for all versions of HTTP, and an engine without it does not know of it. The path of a response:

    start_response      is it one to compress, by its status and fields, for this client? If not, nothing is between it and the engine
    the first block     how long is the body? One that is known to be small goes as it is. Otherwise the head is given anew, with
                        Content-Encoding, a weak ETag, and the length if the whole body is here
    further blocks      each is compressed and flushed before the next is asked for (PEP 3333: no block is held back), so an event stream
                        is not delayed. Blocks of a file need no flush

The application's `start_response` is passed on at once, so that what is wrong about its arguments is raised in its call. The head that is
sent replaces that one.

Rejected: a flush only if the application waits. It would need a greenlet for each response, and gains a few bytes.
"""

import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

from muxwsgi.errors import OperatorError
from muxwsgi.http.accept_encoding import accepted_codings
from muxwsgi.http.content_coding import brotli_module, zstd_module
from muxwsgi.http.environ import Environ, WSGIApplication
from muxwsgi.http.file_wrapper import FileWrapper
from muxwsgi.settings import ResponseSettings
from muxwsgi.wire.ready import give_turn

__all__ = ["Compression"]

Header = tuple[str, str]
Write = Callable[[bytes], object]

#: Levels at which a core compresses some 50 MB a second or more. Higher ones are for files that are compressed once.
GZIP_LEVEL, BROTLI_QUALITY, ZSTD_LEVEL = 6, 5, 3

#: Windows of brotli and zstd: 512 KiB. An open stream keeps a few times that.
WINDOW_LOG = 19

#: Bytes that are compressed in one go, until other greenlets have their turn.
STEP = 1 << 18

#: Bodies in memory up to this size are compressed before the head is sent, so it has their length.
WHOLE_AT_MOST = 1 << 20

#: Statuses without a body, or with a part of one.
_NEVER = frozenset({"204", "205", "206", "304"})

#: Fields whose values would be wrong for another coding of the body, and those that say that it has one.
_AGAINST = frozenset({"content-encoding", "content-range", "content-md5", "digest", "content-digest", "repr-digest"})

#: Fields of the application's body that the compressed one has not: ranges would be those of another body.
_OF_THE_BODY = ("content-length", "accept-ranges")

#: Only compressed if it is named, because there are proxies that hold back compressed event streams.
_EVENT_STREAM = "text/event-stream"


class _Compressor(Protocol):
    def compress(self, data: "bytes | memoryview", /) -> bytes: ...
    def flush(self) -> bytes: ...
    def finish(self) -> bytes: ...


class _Gzip:
    def __init__(self) -> None:
        self._stream = zlib.compressobj(GZIP_LEVEL, zlib.DEFLATED, 31)
        self.compress = self._stream.compress

    def flush(self) -> bytes:
        return self._stream.flush(zlib.Z_SYNC_FLUSH)

    def finish(self) -> bytes:
        return self._stream.flush()


class _Brotli:
    def __init__(self, brotli: Any) -> None:
        self._stream = brotli.Compressor(quality=BROTLI_QUALITY, lgwin=WINDOW_LOG)
        self.compress: Callable[[bytes | memoryview], bytes] = self._stream.process

    def flush(self) -> bytes:
        data: bytes = self._stream.flush()
        return data

    def finish(self) -> bytes:
        data: bytes = self._stream.finish()
        return data


class _Zstd:
    def __init__(self, zstd: Any) -> None:
        parameters = {zstd.CompressionParameter.compression_level: ZSTD_LEVEL, zstd.CompressionParameter.window_log: WINDOW_LOG}
        self._stream = zstd.ZstdCompressor(options=parameters)
        self.compress: Callable[[bytes | memoryview], bytes] = self._stream.compress

    def flush(self) -> bytes:
        data: bytes = self._stream.flush(self._stream.FLUSH_BLOCK)
        return data

    def finish(self) -> bytes:
        data: bytes = self._stream.flush(self._stream.FLUSH_FRAME)
        return data


def _compressor(coding: str) -> Callable[[], _Compressor]:
    """Makes compressors. Raises `OperatorError` without the package that the coding needs."""
    if coding == "gzip":
        return _Gzip
    module = brotli_module() if coding == "br" else zstd_module()
    if module is None:
        package = "brotli" if coding == "br" else "backports.zstd"
        raise OperatorError(f"compress: {coding} needs the package {package} (pip install 'muxwsgi[compress]')")
    return (lambda: _Brotli(module)) if coding == "br" else (lambda: _Zstd(module))


class Compression:
    """A WSGI application around another one."""

    def __init__(self, app: WSGIApplication, settings: ResponseSettings) -> None:
        """Raises `OperatorError` if the package for a coding is missing."""
        self.app = app
        self._compressors = {coding: _compressor(coding) for coding in settings.codings}
        self._at_least = settings.compress_min_size
        types = settings.types
        self._types = frozenset(types)
        self._main_types = tuple(each[:-1] for each in types if each.endswith("/*"))
        self._suffixes = tuple(each[1:] for each in types if each.startswith("*+"))
        self._codings = tuple(self._compressors)

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        exchange = _Exchange(self, environ, start_response)
        result = self.app(environ, exchange.start)
        in_memory = type(result) is list or type(result) is tuple
        if exchange.passes or (in_memory and not exchange.started):
            return result
        if in_memory and not exchange.committed:
            whole = exchange.whole(result)  # type: ignore[arg-type]
            if whole is not None:
                return whole
        return _Encoded(exchange, result)

    def coding_for(self, environ: Environ) -> str | None:
        """The coding for the client of this request."""
        accepted = accepted_codings(environ.get("HTTP_ACCEPT_ENCODING", ""), self._codings)
        return accepted[0] if accepted else None

    def wants(self, content_type: str) -> bool:
        """Whether bodies of this type are compressed."""
        media_type = content_type.partition(";")[0].strip().lower()
        if media_type in self._types:
            return True
        return media_type != _EVENT_STREAM and (media_type.startswith(self._main_types) or media_type.endswith(self._suffixes))

    def compressor(self, coding: str) -> _Compressor:
        """A new compressor."""
        return self._compressors[coding]()

    @property
    def at_least(self) -> int:
        """The smallest body that is compressed."""
        return self._at_least


class _Exchange:
    """One request.

    started     the application has called `start_response`
    passes      its response goes on as it is
    committed   the head says that the body is compressed
    """

    def __init__(self, compression: Compression, environ: Environ, start_response: Callable[..., Any]) -> None:
        self._compression = compression
        self._start_response = start_response
        self._response = environ["muxwsgi.response"]
        self._coding = compression.coding_for(environ)
        self._head_only = environ["REQUEST_METHOD"] == "HEAD"
        self.started = False
        self._reset()

    def _reset(self) -> None:
        self.passes = False
        self.committed = False
        self._status = ""
        self._fields: list[Header] = []
        self._length: int | None = None  # of the body, as the application says
        self._count = 0  # bytes of the body that have come
        self._since_turn = 0  # those that were compressed since others had a turn
        self._stream: _Compressor | None = None
        self._write: Write | None = None

    # The head

    def start(self, status: str, headers: list[Header], exc_info: Any = None) -> Write:
        """The application's `start_response`."""
        if self.started and self._response.head_sent:  # it raises the error of `exc_info`, and nothing is changed
            write: Write = self._start_response(status, headers, exc_info)
            return write
        self._reset()
        try:
            fields = self._decided(status, headers)
        except (TypeError, ValueError, AttributeError):  # they are malformed: the engine says how
            fields = headers
            self.passes = True
        write = self._write = self._start_response(status, fields, exc_info)
        self.started = True
        return write if self.passes else self._written

    def _decided(self, status: str, headers: list[Header]) -> list[Header]:
        """Decide whether the response passes as it is. Returns the fields that it then has."""
        code = status[:3]
        known: dict[str, str] = {}
        for name, value in headers:
            lowered = name.lower()
            known[lowered] = f"{known[lowered]},{value}" if lowered in known else value
        self.passes = True
        if code == "304":  # it has the fields that the response to a new request would have (RFC 9110 section 15.4.5)
            return _varied(headers, weak=self._coding is not None)
        if code in _NEVER or not _AGAINST.isdisjoint(known) or not self._compression.wants(known.get("content-type", "")):
            return headers
        if "no-transform" in known.get("cache-control", "").lower():
            return headers
        length = known.get("content-length", "")
        if length:
            if not length.isascii() or not length.isdigit() or int(length) < self._compression.at_least:
                return headers  # what is no number raises in `start_response`
            self._length = int(length)
        if self._coding is None:
            return _varied(headers, weak=False)
        self.passes = False
        self._status = status
        self._fields = list(headers)
        return headers

    def _commit(self, length: int | None) -> None:
        """Give the head anew, for a compressed body of `length` bytes (None: not known)."""
        assert self._coding is not None
        self.committed = True
        fields = [field for field in _varied(self._fields, weak=True) if field[0].lower() not in _OF_THE_BODY]
        fields.append(("Content-Encoding", self._coding))
        if length is not None:
            fields.append(("Content-Length", str(length)))
        self._response.forget()
        self._write = self._start_response(self._status, fields)

    def _new_stream(self) -> _Compressor:
        assert self._coding is not None
        return self._compression.compressor(self._coding)

    # The body

    def whole(self, blocks: "list[bytes] | tuple[bytes, ...]") -> Iterable[bytes] | None:
        """What a body in memory becomes. None if it has to be sent in pieces."""
        if not all(isinstance(block, bytes) for block in blocks):
            return blocks  # the engine raises
        size = sum(map(len, blocks))
        if self._head_only and not size:
            compresses = self._length is not None
        else:
            compresses = size >= self._compression.at_least and self._length in (None, size)
        if not compresses:
            self.passes = True
            return blocks
        if not self._head_only and size > WHOLE_AT_MOST:
            return None
        self._commit(None)  # the engine states the length of a list
        return [] if self._head_only else [_all_of(self._new_stream(), b"".join(blocks))]

    def block(self, data: bytes, *, flushes: bool = True) -> bytes:
        """What the next block of the body becomes. b"" if nothing is to be sent yet."""
        if self.passes:
            return data
        if not isinstance(data, bytes):
            raise TypeError(f"a response body consists of bytes, not {type(data).__name__}")
        if not data:
            return b""
        self._count += len(data)
        length = self._length
        if length is not None and self._count > length:
            raise ValueError(f"the application's body is longer than its Content-Length of {length}")
        if self._head_only:
            if not self.committed:
                self._commit(None)
            return b""
        if not self.committed:
            if self._count == length and length <= WHOLE_AT_MOST:
                body = _all_of(self._new_stream(), data)
                self._commit(len(body))
                return body
            self._commit(None)
            self._stream = self._new_stream()
        stream = self._stream
        if stream is None:
            raise RuntimeError("the body is complete")
        made = _compressed(stream, data)
        self._since_turn += len(data)
        if self._since_turn > STEP:  # what is written is small, so the engine does not wait for the client
            self._since_turn = 0
            give_turn()
        if self._count == length:
            self._stream = None
            return made + stream.finish()
        return made + stream.flush() if flushes else made

    def end(self) -> bytes:
        """What follows the last block. Raises `ValueError` if the body is too short."""
        if self.passes or not self.started:
            return b""
        if self._head_only:
            if not self.committed:
                self._commit(None)
            return b""
        if self._length is not None and self._count < self._length:
            raise ValueError(f"the application's body is {self._length - self._count} bytes shorter than its Content-Length")
        if not self.committed:  # an empty body: nothing to compress
            return b""
        stream, self._stream = self._stream, None
        return b"" if stream is None else stream.finish()

    @property
    def is_complete(self) -> bool:
        """Whether nothing more is sent: the response has a head alone."""
        return self._head_only and self.committed

    def _written(self, data: bytes) -> object:
        """The application's `write`. It sends at least the head."""
        data = self.block(data)
        if not data and not self._head_only and not self.committed:
            self._commit(None)
            self._stream = self._new_stream()
        assert self._write is not None
        return self._write(data)


class _Encoded:
    """The application's iterable, compressed."""

    def __init__(self, exchange: _Exchange, result: Iterable[bytes]) -> None:
        self._exchange = exchange
        self._result = result
        self._flushes = type(result) is not FileWrapper and type(result) is not list and type(result) is not tuple

    def __iter__(self) -> Iterator[bytes]:
        exchange = self._exchange
        for data in self._result:
            yield exchange.block(data, flushes=self._flushes)
            if exchange.is_complete:
                break
        yield exchange.end()

    def close(self) -> None:
        """Close the application's."""
        close = getattr(self._result, "close", None)
        if close is not None:
            close()


def _varied(headers: list[Header], *, weak: bool) -> list[Header]:
    """The fields with Accept-Encoding in Vary, and with a weak ETag if `weak`: bodies with and without a coding are not the same bytes
    (RFC 9110 section 8.8.3)."""
    varied = False
    fields: list[Header] = []
    for name, value in headers:
        lowered = name.lower()
        if lowered == "vary":
            varied = varied or not {"*", "accept-encoding"}.isdisjoint(each.strip().lower() for each in value.split(","))
        elif lowered == "etag" and weak and value.startswith('"'):
            value = f"W/{value}"
        fields.append((name, value))
    if not varied:
        fields.append(("Vary", "Accept-Encoding"))
    return fields


def _compressed(stream: _Compressor, data: bytes) -> bytes:
    """What `data` becomes so far. Other greenlets have their turns meanwhile."""
    if len(data) <= STEP:
        return stream.compress(data)
    parts = []
    view = memoryview(data)
    for at in range(0, len(data), STEP):
        parts.append(stream.compress(view[at : at + STEP]))
        give_turn()
    return b"".join(parts)


def _all_of(stream: _Compressor, data: bytes) -> bytes:
    return _compressed(stream, data) + stream.finish()
