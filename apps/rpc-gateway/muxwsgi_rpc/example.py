"""A small shop, whose prices a page, JSON-RPC and MessagePack-RPC ask for: `muxwsgi run muxwsgi_rpc.example:app`."""

from typing import Any

from flask import Flask, request

from muxwsgi_rpc import CallError, Procedures
from muxwsgi_rpc.json_rpc import json_rpc_application

__all__ = ["app", "procedures"]

procedures = Procedures()

_PRICES = {"apple": 30, "pear": 45}


@procedures.register
def price(what: str, count: int = 1) -> int:
    """The price of so many, in cents."""
    if what not in _PRICES:
        raise CallError(1, f"there is no {what}")
    return _PRICES[what] * count


@procedures.register
def catalogue() -> dict[str, int]:
    """The price of one of each."""
    return dict(_PRICES)


app = Flask(__name__)


@app.get("/price/<what>")
def price_page(what: str) -> Any:
    """The same function, for browsers."""
    try:
        return {"price": price(what, request.args.get("count", 1, type=int))}
    except CallError as error:
        return {"error": error.message}, 404


_rpc = json_rpc_application(procedures)


@app.post("/rpc")
def rpc() -> Any:
    """JSON-RPC over HTTP."""
    return _rpc
