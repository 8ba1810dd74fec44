"""Which installed packages may have entry points of a group.

`importlib.metadata` knows it exactly. But its import, and what it reads, took a tenth of the time in which a server starts, and most
packages have no entry point that a server looks for.
"""

import os
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder

__all__ = ["packages_naming"]


def packages_naming(group: str) -> set[str]:
    """The packages in the folders of `sys.path` whose entry points name a group that begins with `group`. `?` among them stands for what
    `importlib.metadata` has to look into: an archive, what cannot be read, and a finder of packages that a program has added."""
    if any(hasattr(finder, "find_distributions") for finder in sys.meta_path if finder is not PathFinder):
        return {"?"}
    return {name for folder in sys.path if isinstance(folder, str) for name in _naming(folder or ".", group.encode())}


def _naming(folder: str, group: bytes) -> Iterator[str]:
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    except OSError:
        yield "?"
        return
    for name in names:
        if name.lower().endswith((".dist-info", ".egg-info")) or name.lower() == "egg-info":
            try:
                with open(os.path.join(folder, name, "entry_points.txt"), "rb") as file:
                    if group in file.read():
                        yield name.partition("-")[0]
            except (FileNotFoundError, NotADirectoryError):  # an .egg-info may be a file
                pass
            except OSError:
                yield "?"
