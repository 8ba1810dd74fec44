"""What these servers are told: PORT APPLICATION [CERTFILE KEYFILE]."""

import sys
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

__all__ = ["Arguments", "read"]


@dataclass(frozen=True)
class Arguments:
    """`files` are certificate and key in PEM, or nothing for plain connections. `module:name` is imported by `application()`."""

    port: int
    name: str
    files: tuple[str, ...]

    def application(self) -> "WSGIApplication":
        module, _, attribute = self.name.partition(":")
        application: WSGIApplication = getattr(import_module(module), attribute)
        return application


def read() -> Arguments:
    return Arguments(int(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else "", tuple(sys.argv[3:5]))
