"""The TLS contexts of a master's binds, which all its workers inherit. Imports no gevent.

OpenSSL makes the keys of session tickets with the context. So workers resume each other's sessions if the context was made before they were
forked. A reload keeps the front context of a bind, and with it the keys, if the settings of its TLS are the same: the files are read again
all the same. A worker adds what only it knows, the ALPN ids (`ServerContext.serve_with`)."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from muxwsgi.server.binds import Listening
from muxwsgi.settings import ServerSettings

if TYPE_CHECKING:
    from muxwsgi.wire.tls.server_context import ServerContext

__all__ = ["front_contexts"]


def front_contexts(
    settings: ServerSettings, listening: Iterable[Listening], before: "Mapping[str, ServerContext]"
) -> "dict[str, ServerContext]":
    """The context of each bind that has certificates, by its address. `before` are those of the generation before, which stay as they are.
    Raises `OperatorError`, which names the faulty file."""
    contexts = {}
    for each in listening:
        if each.bind.certificates:
            from muxwsgi.wire.tls.server_context import ServerContext  # OpenSSL, which takes as long to import as all else here

            wanted = settings.tls_of(each.bind)
            known = before.get(each.address)
            contexts[each.address] = known.renewed() if known is not None and known.settings == wanted else ServerContext(wanted)
    return contexts
