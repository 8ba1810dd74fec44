"""Flask: one route with a parameter, an answer in JSON."""

from flask import Flask, jsonify
from flask.typing import ResponseReturnValue

application = Flask(__name__)


@application.get("/api/entries/<int:number>")
def entry(number: int) -> ResponseReturnValue:
    return jsonify(number=number, name="Ada", text="Hello, World!", tags=["one", "two", "three"], draft=False)
