"""What each command does: one function a command, which takes the session and the arguments behind the name and returns the reply.
See https://redis.io/docs/latest/commands/ for what they promise. To add one, write a function with `@command` above it.
"""

from muxwsgi_resp.commands import containers, keys, strings, talk
from muxwsgi_resp.session import COMMANDS

__all__ = ["COMMANDS", "containers", "keys", "strings", "talk"]
