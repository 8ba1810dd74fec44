"""Where muxwsgi keeps the keys that it makes, and how it writes them so that no other user can read them."""

import os
import tempfile
from pathlib import Path

from muxwsgi.errors import OperatorError

__all__ = ["data_folder", "write_private"]


def data_folder() -> Path:
    """`$XDG_DATA_HOME/muxwsgi` (`~/.local/share/muxwsgi`), the folder of the keys that muxwsgi makes. It may not exist yet.

    Raises `OperatorError` if the user has no home folder.
    """
    data = Path(os.environ.get("XDG_DATA_HOME", ""))
    if data.is_absolute():  # the XDG specification: "If [...] relative, consider the path invalid and ignore it"
        return data / "muxwsgi"
    try:
        return Path.home() / ".local" / "share" / "muxwsgi"
    except RuntimeError:  # a container whose user has neither HOME nor an entry in passwd
        raise OperatorError("keys and certificates have no place to be kept: set HOME or XDG_DATA_HOME") from None


def write_private(path: Path, data: bytes) -> None:
    """Replace `path` in one step by a file with mode 0600. mkstemp creates it with this mode, so other users can never read it."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
