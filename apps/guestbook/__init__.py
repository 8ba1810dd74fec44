"""A guest book in Flask: entries with pictures, your name in a session, news as they happen (SSE), a WebSocket that answers."""

from apps.guestbook.app import create_app

__all__ = ["create_app"]
