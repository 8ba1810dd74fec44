"""The application. Everything is in memory: it is here to show a server, not to keep anything."""

import hashlib
import json
import secrets
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from queue import Empty, Full, Queue
from typing import Any

from flask import Flask, Response, abort, jsonify, redirect, render_template, request, session, url_for
from flask_sock import Sock

MAX_ENTRIES = 100
MAX_PICTURE = 2 * 1024 * 1024


def create_app() -> Flask:
    """A guest book of its own."""
    app = Flask(__name__)
    app.secret_key = secrets.token_bytes(32)
    app.config["MAX_CONTENT_LENGTH"] = MAX_PICTURE + 64 * 1024
    sock = Sock(app)
    entries: list[dict[str, Any]] = []
    pictures: OrderedDict[str, tuple[str, bytes]] = OrderedDict()
    listeners: set[Queue[dict[str, Any]]] = set()

    @app.get("/")
    def index() -> str:
        return render_template("index.html", entries=entries[::-1], name=session.get("name", ""))

    @app.post("/sign")
    def sign() -> Any:
        name = request.form.get("name", "").strip()[:80]
        text = request.form.get("text", "").strip()[:2000]
        if not name or not text:
            abort(400, "a name and a text, please")
        session["name"] = name
        entry = {"name": name, "text": text, "at": datetime.now(UTC).isoformat(timespec="seconds"), "picture": None}
        picture = request.files.get("picture")
        if picture is not None and picture.filename:
            if not (picture.mimetype or "").startswith("image/"):
                abort(415, "only pictures, please")
            data = picture.read()
            digest = hashlib.sha256(data).hexdigest()[:32]
            pictures[digest] = (picture.mimetype, data)
            entry["picture"] = digest
        entries.append(entry)
        del entries[:-MAX_ENTRIES]
        while len(pictures) > MAX_ENTRIES:
            pictures.popitem(last=False)
        for listener in list(listeners):
            with suppress(Full):  # a reader that is so far behind misses some
                listener.put_nowait(entry)
        return redirect(url_for("index"), 303)

    @app.get("/picture/<digest>")
    def picture(digest: str) -> Any:
        if digest not in pictures:
            abort(404)
        mimetype, data = pictures[digest]
        return Response(data, mimetype=mimetype, headers={"X-Content-Type-Options": "nosniff", "Content-Security-Policy": "sandbox"})

    @app.get("/api/entries")
    def api_entries() -> Any:
        return jsonify(entries)

    @app.get("/news")
    def news() -> Response:
        """Entries as they are written: server-sent events."""
        queue: Queue[dict[str, Any]] = Queue(MAX_ENTRIES)
        listeners.add(queue)

        def stream() -> Iterator[str]:
            try:
                yield ": here come the news\n\n"
                while True:
                    try:
                        yield f"event: entry\ndata: {json.dumps(queue.get(timeout=15))}\n\n"
                    except Empty:
                        yield ": still there\n\n"  # notices a reader that has gone
            finally:
                listeners.discard(queue)

        return Response(stream(), mimetype="text/event-stream", headers={"Cache-Control": "no-store"})

    @sock.route("/parrot")
    def parrot(ws: Any) -> None:
        while True:
            ws.send(f"{ws.receive()}!")

    return app
