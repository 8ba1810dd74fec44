"""The names that are private to others, and that muxwsgi uses all the same: the list in docs/architecture.md, and whether they still exist."""

import ast
import asyncio
import inspect
import multiprocessing.connection
import multiprocessing.synchronize
import re
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import gevent.hub
import gevent.pool
import gevent.server
import gevent.socket
import pytest
from cryptography.hazmat.bindings import _rust
from geventwebsocket.websocket import WebSocket
from OpenSSL import SSL, crypto
from opentelemetry import context as opentelemetry_context

ROOT = Path(__file__).parents[1]


def gevent_socket() -> Any:
    sock = gevent.socket.socket()
    sock.close()
    return sock


#: What a name belongs to, and where it is looked for.
OWNERS: dict[str, tuple[Callable[[], Any], list[str]]] = {
    "gevent sockets": (gevent_socket, ["_sock", "_closed", "_wait", "_real_close"]),
    "open gevent sockets": (gevent.socket.socket, ["_write_event"]),
    "gevent hubs": (gevent.get_hub, ["_resolver", "_threadpool", "cancel_waits_close_and_then"]),
    "gevent.hub": (lambda: gevent.hub, ["set_hub"]),
    "gevent loops": (lambda: gevent.get_hub().loop, ["default", "install_sigchld", "run_callback_threadsafe"]),
    "gevent.signal_handler": (lambda: gevent.signal_handler, ["greenlet_class"]),
    "gevent pools": (lambda: gevent.pool.Pool(1), ["_semaphore"]),
    "gevent servers": (lambda: gevent.server.StreamServer, ["_start_accepting_if_started"]),
    "gevent-websocket": (lambda: WebSocket, ["_encode_bytes"]),
    "OpenSSL.SSL": (lambda: SSL, ["_lib", "_ffi", "_no_zero_allocator"]),
    "OpenSSL.SSL._lib": (
        lambda: SSL._lib,  # type: ignore[attr-defined]
        ["SSL_read", "SSL_write", "SSL_do_handshake", "SSL_get_error", "SSL_clear_mode", "SSL_MODE_AUTO_RETRY", "SSL_ERROR_WANT_READ",
         "SSL_session_reused", "SSL_get_current_cipher", "SSL_CTX_use_certificate", "SSL_CTX_set_session_id_context", "ERR_clear_error"],
    ),
    "OpenSSL.SSL.Connection": (lambda: SSL.Connection(SSL.Context(SSL.TLS_METHOD)), ["_ssl", "_raise_ssl_error"]),
    "OpenSSL.SSL.Context": (lambda: SSL.Context(SSL.TLS_METHOD), ["_context"]),
    "OpenSSL.crypto.X509": (crypto.X509, ["_x509"]),
    "cryptography": (lambda: _rust, ["_openssl"]),
    "socket.socket": (lambda: socket.socket, ["_accept"]),
    "re": (lambda: re, ["_constants", "_parser"]),
    "sys": (lambda: sys, ["_getframe"]),
    "multiprocessing connections": (lambda: multiprocessing.connection.Connection, ["_recv", "_send"]),
    "multiprocessing semaphores": (lambda: multiprocessing.synchronize.SemLock, ["_make_methods"]),
    "opentelemetry.context": (lambda: opentelemetry_context, ["_SUPPRESS_INSTRUMENTATION_KEY"]),
}

if sys.version_info < (3, 14):
    OWNERS |= {
        "asyncio.events": (
            lambda: asyncio.events,
            ["_running_loop", "_get_running_loop", "_set_running_loop", "_event_loop_policy",
             "_py__get_running_loop", "_py__set_running_loop", "_py_get_running_loop", "_py_get_event_loop"],
        ),
        "asyncio policies": (lambda: asyncio.DefaultEventLoopPolicy(), ["_Local", "_local"]),
    }
if (3, 12) <= sys.version_info < (3, 14):
    OWNERS["asyncio.tasks"] = (lambda: asyncio.tasks, ["_py_current_task"])
if sys.version_info < (3, 12):
    OWNERS["asyncio.events until 3.11"] = (lambda: asyncio.events, ["_py__get_event_loop", "_get_event_loop"])

#: Names of those lists that other versions of Python have.
ELSEWHERE = {"_py_current_task", "_py__get_event_loop", "_get_event_loop"}

#: Documented in spite of their underscore, there for types alone, or put there by ourselves.
NOT_PRIVATE = {"_exit", "_typeshed", "_socket", "_thread", "_muxwsgi", "_rust"}


@pytest.mark.parametrize(("owner", "name"), [(owner, name) for owner, (_, names) in OWNERS.items() for name in names])
def test_a_private_name_is_still_there(owner: str, name: str) -> None:
    assert hasattr(OWNERS[owner][0](), name), f"{name} of {owner} is gone: see what docs/architecture.md says of private names"


def test_files_of_a_socket_say_when_they_are_closed() -> None:
    """`socket.SocketIO` tells the socket by a private method, which `Connection` has."""
    assert "_decref_socketios" in inspect.getsource(socket.SocketIO.close)


def private_names(tree: ast.AST) -> Iterator[str]:
    """Names with one underscore in front that are read, imported, or looked for by their text."""
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            names.append(node.attr)
        elif isinstance(node, ast.alias):
            names += node.name.split(".")
        elif isinstance(node, ast.ImportFrom):
            names += (node.module or "").split(".")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("getattr", "hasattr", "setattr"):
            names += [argument.value for argument in node.args[1:2] if isinstance(argument, ast.Constant) and isinstance(argument.value, str)]
    return (name for name in names if name.startswith("_") and not name.startswith("__"))


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names that are defined here."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name) and node.value.id == "self":
            yield node.attr


def test_the_list_of_private_names_is_complete() -> None:
    trees = [ast.parse(path.read_text()) for path in (ROOT / "muxwsgi").rglob("*.py")]
    used = {name for tree in trees for name in private_names(tree)}
    own = {name for tree in trees for name in own_names(tree)}
    listed = {name for _, names in OWNERS.values() for name in names}
    assert used - own - listed - ELSEWHERE - NOT_PRIVATE == set()


def test_the_page_has_every_private_name() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    begin = page.index("- **Private names**")
    paragraph = page[begin : page.index("\n- **", begin + 1)]
    said = set(re.findall(r"`([A-Za-z_0-9]+)`", paragraph))
    listed = {name for _, names in OWNERS.values() for name in names}
    assert (listed | ELSEWHERE | {"_decref_socketios"}) - said == set()
