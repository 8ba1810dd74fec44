"""Fields of a message as a list of (name, value), in the order in which they were sent: `muxwsgi.fields`."""

from collections.abc import Iterable

__all__ = ["with_field"]


def with_field(fields: Iterable[tuple[str, str]], name: str, value: str | None) -> list[tuple[str, str]]:
    """`fields` with `value` in the only field of this name. It stands where the first one stood, or at the end if there was none. `value`
    is None to remove the field."""
    lowered = name.lower()
    found: list[tuple[str, str]] = []
    put = value is None
    for field in fields:
        if field[0].lower() != lowered:
            found.append(field)
        elif not put and value is not None:
            found.append((field[0], value))
            put = True
    if not put and value is not None:
        found.append((name, value))
    return found
