"""The file that holds a buffered request body."""

import contextlib
import tempfile

__all__ = ["Spool"]


class Spool(tempfile.SpooledTemporaryFile[bytes]):
    """Closes also if the rest cannot be written, because it will not be read."""

    @staticmethod
    def folder() -> str:
        """Where the files are, in words."""
        return tempfile.tempdir or "a folder for temporary files"  # None where none was found to be usable: asking again would raise

    def close(self) -> None:
        with contextlib.suppress(OSError):
            super().close()

    def __exit__(self, *exc_info: object) -> None:
        self.close()
