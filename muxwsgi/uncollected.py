"""`uncollected`: imports without the garbage collector.

What is imported stays. The collector looks at it again and again while more is imported, which took a twelfth of the time in
which a server starts.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """For imports of our own. An application may make much garbage while it is imported."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
