"""Views that use asyncio in every way that applications do, each for a while, so that many of them are under way at the same time."""

import asyncio
import contextvars
import json
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread
import django
import flask
import httpx
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.db import connection
from django.http import HttpRequest, JsonResponse
from django.urls import path
from werkzeug.middleware.dispatcher import DispatcherMiddleware

from muxwsgi.patch.running_loop import is_patched

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

NAP = 0.05
name = contextvars.ContextVar("name", default="nobody")


async def nap_and_say(number: int) -> int:
    await asyncio.sleep(NAP)
    assert asyncio.get_running_loop() is asyncio.get_event_loop()
    assert asyncio.current_task() is not None
    return number


async def gather() -> object:
    return await asyncio.gather(*(nap_and_say(number) for number in range(5)))


async def threads() -> object:
    def work() -> str:
        time.sleep(NAP)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return name.get()
        return "a running loop in a worker thread"

    name.set("threads")
    in_executor = asyncio.get_running_loop().run_in_executor(None, work)
    return [await asyncio.to_thread(work), await in_executor]


async def futures() -> object:
    """Made without a loop, and completed by a timer, by another thread, and never."""
    loop = asyncio.get_running_loop()
    by_timer: asyncio.Future[int] = asyncio.Future()
    by_thread: asyncio.Future[int] = asyncio.Future()
    loop.call_later(NAP, by_timer.set_result, 1)
    threading.Thread(target=lambda: (time.sleep(NAP), loop.call_soon_threadsafe(by_thread.set_result, 2))).start()
    found = [await by_timer, await by_thread, by_timer.get_loop() is loop]
    try:
        await asyncio.wait_for(asyncio.Future(), NAP)
    except TimeoutError:
        found.append("timed out")
    return found


async def streams() -> object:
    async def upper(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(upper, "127.0.0.1", 0)
    async with server:
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        await asyncio.sleep(NAP)
        writer.write(b"hello\n")
        answer = await reader.read()
        writer.close()
        return answer.decode()


async def processes() -> object:
    process = await asyncio.create_subprocess_exec("sh", "-c", "sleep 0.05; cat; exit 3", stdin=-1, stdout=-1)
    out, _ = await process.communicate(b"through a process")
    return [out.decode(), process.returncode]


async def queues() -> object:
    queue: asyncio.Queue[int] = asyncio.Queue()
    lock, event = asyncio.Lock(), asyncio.Event()

    async def put() -> None:
        async with lock:
            await asyncio.sleep(NAP)
            await queue.put(7)
            event.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(put())
        got = group.create_task(queue.get())
        await event.wait()
    return got.result()


async def with_anyio() -> object:
    async with anyio.create_task_group() as group:
        group.start_soon(anyio.sleep, NAP)
        found = await anyio.to_thread.run_sync(lambda: name.get())
    with anyio.move_on_after(NAP) as scope:
        await anyio.sleep(60)
    return [found, scope.cancelled_caught]


async def with_httpx() -> object:
    """A request to this server, from within it."""
    async with httpx.AsyncClient(trust_env=False, timeout=60) as client:
        return (await client.get(f"http://{address.get()}/plain/nothing")).json()


async def blocking() -> object:
    """A coroutine that waits as an ordinary view does: its own loop stands still, and no other."""
    before = asyncio.get_running_loop()
    time.sleep(NAP)
    return asyncio.get_running_loop() is before


present: set[object] = set()


async def meet() -> object:
    """Until two are here, each in a loop of its own."""
    present.add(asyncio.get_running_loop())
    async with asyncio.timeout(60):
        while len(present) < 2:
            await asyncio.sleep(0.01)
    return len(present)


@sync_to_async
def work_in_sync() -> object:
    time.sleep(NAP)
    with connection.cursor() as cursor:
        cursor.execute("SELECT 4")
        return cursor.fetchone()[0]


async def back_and_forth() -> object:
    return await sync_to_async(async_to_sync(gather))()


def query() -> object:
    """Django's ORM, which asks whether an event loop runs."""
    found = []
    for _ in range(3):
        with connection.cursor() as cursor:
            cursor.execute("SELECT 3")
            found.append(cursor.fetchone()[0])
        time.sleep(NAP / 2)
    connection.close()
    return found


def nothing() -> object:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return "no loop"
    return "somebody else's loop"


address: contextvars.ContextVar[str] = contextvars.ContextVar("address")

#: name: (what to run, what comes out)
COROUTINES: dict[str, tuple[Callable[[], Coroutine[Any, Any, object]], object]] = {
    "gather": (gather, [0, 1, 2, 3, 4]),
    "threads": (threads, ["threads", "nobody"]),
    "futures": (futures, [1, 2, True, "timed out"]),
    "streams": (streams, "HELLO\n"),
    "processes": (processes, ["through a process", 3]),
    "queues": (queues, 7),
    "anyio": (with_anyio, ["nobody", True]),
    "httpx": (with_httpx, "no loop"),
    "blocking": (blocking, True),
    "back_and_forth": (back_and_forth, [0, 1, 2, 3, 4]),
}
PLAIN: dict[str, tuple[Callable[[], object], object]] = {
    "query": (query, [3, 3, 3]),
    "nothing": (nothing, "no loop"),
    "async_to_sync": (lambda: async_to_sync(gather)(), [0, 1, 2, 3, 4]),
    "sync_in_async": (lambda: asyncio.run(work_in_sync()), 4),
    "runner": (lambda: run_twice(), [0, 0]),
    "own_loop": (lambda: own_loop(), 0),
}


def run_twice() -> object:
    with asyncio.Runner() as runner:
        return [runner.run(nap_and_say(0)), runner.run(nap_and_say(0))]


def own_loop() -> object:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return asyncio.get_event_loop().run_until_complete(nap_and_say(0))
    finally:
        asyncio.set_event_loop(None)
        loop.close()


def plain(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    """/NAME"""
    wanted = environ["PATH_INFO"].strip("/")
    address.set(f"{environ['SERVER_NAME']}:{environ['SERVER_PORT']}")
    if wanted in PLAIN:
        result = PLAIN[wanted][0]()
    else:
        result = asyncio.run(meet() if wanted == "meet" else COROUTINES[wanted][0]())
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(result).encode()]


in_flask = flask.Flask(__name__)


@in_flask.get("/<wanted>")
async def flask_view(wanted: str) -> object:
    address.set(flask.request.host)
    return flask.jsonify(await COROUTINES[wanted][0]())


async def django_view(request: HttpRequest, wanted: str) -> JsonResponse:
    address.set(request.get_host())
    return JsonResponse(await COROUTINES[wanted][0](), safe=False)


if not settings.configured:
    settings.configure(
        ROOT_URLCONF=__name__,
        ALLOWED_HOSTS=["*"],
        SECRET_KEY="a test's",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}},
    )
    django.setup()

urlpatterns = [path("<wanted>", django_view)]


def state(environ: "WSGIEnvironment", start_response: "StartResponse") -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps([is_patched(), sys.version_info[:2], os.getpid()]).encode()]


application = DispatcherMiddleware(state, {"/plain": plain, "/flask": in_flask, "/django": WSGIHandler()})
