"""What the operator wants, out of a TOML file. What is wrong in it is an `OperatorError` with the file's name."""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from muxwsgi import OperatorError

__all__ = ["Policy"]


@dataclass(frozen=True, kw_only=True)
class Policy:
    """
    deny                files with hosts that nobody reaches
    passthrough         hosts whose TLS is not intercepted
    strip_request       names of fields that are taken out of requests
    strip_response      and out of responses
    secrets             further kinds of secrets, by name
    """

    deny: tuple[Path, ...] = ()
    passthrough: tuple[str, ...] = ()
    strip_request: tuple[str, ...] = ()
    strip_response: tuple[str, ...] = ()
    secrets: Mapping[str, re.Pattern[bytes]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> "Policy":
        """Raises `OperatorError`."""
        path = Path(path)
        try:
            found = tomllib.loads(path.read_text(encoding="utf-8"))
        except OSError as error:
            raise OperatorError(f"{path}: {error.strerror}") from error
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise OperatorError(f"{path}: {error}") from error
        unknown = set(found) - {"deny", "passthrough", "strip_request", "strip_response", "secrets"}
        if unknown:
            raise OperatorError(f"{path}: there is no {sorted(unknown)[0]!r} in a policy")
        return cls(
            deny=tuple(path.parent / name for name in _texts(path, found, "deny")),
            passthrough=_texts(path, found, "passthrough"),
            strip_request=_texts(path, found, "strip_request"),
            strip_response=_texts(path, found, "strip_response"),
            secrets=_patterns(path, found.get("secrets", {})),
        )


def _texts(path: Path, found: Mapping[str, Any], key: str) -> tuple[str, ...]:
    values = found.get(key, [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise OperatorError(f"{path}: {key} is not a list of texts")
    return tuple(values)


def _patterns(path: Path, found: Any) -> dict[str, re.Pattern[bytes]]:
    if not isinstance(found, dict):
        raise OperatorError(f"{path}: secrets is not a table")
    patterns = {}
    for name, text in found.items():
        try:
            patterns[name] = re.compile(text.encode("utf-8"))
        except (re.error, AttributeError) as error:
            raise OperatorError(f"{path}: secrets.{name}: {error}") from error
    return patterns
