"""A proxy whose rules and hijackers start processes, as a program of its own. It writes flows to $FLOWS, and its address to its output."""

from muxwsgi.patch import patch_all

patch_all()

import multiprocessing
import os
import signal
import socket
import sys
import time

import gevent

from muxwsgi import Connection, Server, hijack
from muxwsgi.dial.upstream_choice import UpstreamChoice
from muxwsgi.mux.matchers import prefix
from muxwsgi.proxy import Context, Proxy, Request, Response, url_is
from muxwsgi.records.flow_log import FlowLog
from muxwsgi.records.har import HARFile
from tests.system.forking_app import fork, sockets

folder = os.environ["FLOWS"]
log, archive = FlowLog(f"{folder}/flows.jsonl"), HARFile(f"{folder}/flows.har")
proxy = Proxy(allow_private=True, upstreams=UpstreamChoice(), sinks=[log, archive])


@proxy.on_request(url_is("/in-rule"))
def start_process(request: Request, ctx: Context) -> Response:
    """A child, forked while flows wait for the disk and connections rest in the pool, says which sockets it has."""
    queue = fork.Queue()
    process = fork.Process(target=lambda: queue.put(sockets()))
    process.start()
    found = queue.get()
    process.join()
    return Response(f"{len(found)} {process.exitcode}")


@proxy.on_request(url_is("/fork-and-return"))
def return_in_child(request: Request, ctx: Context) -> Response:
    pid = os.fork()
    if pid == 0:
        return Response("a child's answer")
    return Response(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))


@proxy.on_request(url_is("/stay"))
def leave_a_child(request: Request, ctx: Context) -> Response:
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    return Response(str(pid))


@hijack(match=prefix(b"FORK "))
def forking(connection: Connection) -> None:
    """Says what became of a child, and talks on. The child talks too, as far as it can."""
    word = connection.recv().split()[1]
    pid = os.fork()
    if pid == 0:
        if word == b"exit":
            sys.exit(5)
        if word == b"talk":
            connection.sendall(b"the child talks\n")
        return  # and ends as handlers do
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.sendall(b"%s %d\n" % (word, status))
    connection.sendall(connection.recv())


@hijack(match=prefix(b"PUMP "))
def pumping(connection: Connection) -> None:
    """A socket of `as_socket()`: that it is closed shows at the other end, though a child was forked meanwhile."""
    near = connection.as_socket()
    near.recv(100)
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    near.sendall(b"bye\n")
    near.shutdown(socket.SHUT_WR)
    near.close()
    connection.finish()
    process.terminate()
    process.join()


if __name__ == "__main__":
    server = Server(proxy, ["127.0.0.1:0"], hijackers=[forking, pumping])
    gevent.signal_handler(signal.SIGTERM, server.request_stop)
    print(server.addresses[0], flush=True)
    server.serve_forever()
    log.close()
    archive.close()
