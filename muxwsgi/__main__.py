"""`python -m muxwsgi`."""

from muxwsgi.cli import main

if __name__ == "__main__":
    main()
