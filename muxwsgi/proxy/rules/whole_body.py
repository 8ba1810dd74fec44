"""`WholeBody`: the properties `data` and `text` of requests and responses."""

from typing import Any

__all__ = ["WholeBody"]


class WholeBody:
    """For a class with werkzeug's `get_data` and `set_data`."""

    get_data: Any
    set_data: Any

    @property
    def data(self) -> bytes:
        """`get_data()`, and `set_data()` when set."""
        found: bytes = self.get_data()
        return found

    @data.setter
    def data(self, value: bytes | str) -> None:
        self.set_data(value)

    @property
    def text(self) -> str:
        """`get_data(as_text=True)`, and `set_data()` when set."""
        found: str = self.get_data(as_text=True)
        return found

    @text.setter
    def text(self, value: str) -> None:
        self.set_data(value)
