"""`python -m muxwsgi`, and the command `muxwsgi`."""

import sys

from muxwsgi.build import wrong_platform
from muxwsgi.uncollected import uncollected

__all__ = ["main"]


def main() -> None:
    """The command line, on a platform that can run it."""
    reason = wrong_platform()
    if reason is not None:
        print(f"muxwsgi: error: {reason}", file=sys.stderr)
        sys.exit(2)
    with uncollected():
        from muxwsgi.cli import main as command_line  # imports what only Linux has
        from muxwsgi.cli.ending import end, report_full_output

    report_full_output()
    status = command_line()
    if status is not None:
        end(status)


if __name__ == "__main__":
    main()
