"""WebSockets as Flask applications have them, with nothing done for this server. Started by `test_clients.py`, in a process that is patched."""

import sys
from typing import Any

from gevent import monkey

monkey.patch_all()

import gevent
import simple_websocket
from flask import Flask
from flask_sock import Sock

from muxwsgi import Server
from muxwsgi.settings import BindSettings, CertificateFiles

#: More than any socket takes at once.
LARGE = bytes(range(256)) * 12_000

app = Flask(__name__)
sock = Sock(app)
pinging = "--pinging" in sys.argv
if pinging:
    app.config["SOCK_SERVER_OPTIONS"] = {"ping_interval": 25}


@app.get("/")
def index() -> str:
    return "not a socket"


def echo(ws: Any) -> None:
    while True:
        message = ws.receive()
        ws.send(LARGE if message == "large" else message)


sock.route("/flask-sock")(echo)


def application(environ: dict[str, Any], start_response: Any) -> Any:
    if environ["PATH_INFO"] != "/simple-websocket":
        return app(environ, start_response)
    ws = simple_websocket.Server(environ, ping_interval=25 if pinging else None)
    try:
        echo(ws)
    except simple_websocket.ConnectionClosed:
        return []


if __name__ == "__main__":
    _, certfile, keyfile, *_ = sys.argv
    files = (CertificateFiles(certfile=certfile, keyfile=keyfile),)
    server = Server(application, binds=[BindSettings(host="127.0.0.1", tls="optional", certificates=files)])
    server.start()
    print(server.addresses[0], flush=True)
    gevent.get_hub().threadpool.apply(sys.stdin.read)  # until the test is over, or gone
    server.stop(0)
