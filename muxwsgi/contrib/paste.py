"""PasteDeploy: `use = egg:muxwsgi` in `[server:main]`, for Pyramid's `pserve` and others.

The keys of the section are options of `muxwsgi run`, with underscores, and `host` and `port`, as other servers have them. `app` is the name
of the application in the file, if it is not `main`.
"""

import json
import logging.config
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from muxwsgi.contrib.launch import become, joined_bind

__all__ = ["application", "serve", "server_factory"]

#: What the new process is told: the file's values, and the name of the application.
_VARIABLE = "_MUXWSGI_PASTE"


def serve(app: Any, global_conf: Mapping[str, Any], **settings: str) -> NoReturn:
    """A `paste.server_runner`. `app` is loaded again, in the workers. Raises `SystemExit` (2) for a setting that does not exist."""
    name = settings.pop("app", "main")
    told = {"values": {key: str(value) for key, value in global_conf.items()}, "app": name}
    become("muxwsgi.contrib.paste:application()", arguments_of(settings), {_VARIABLE: json.dumps(told)})


def server_factory(global_conf: Mapping[str, Any], **settings: str) -> Callable[[Any], NoReturn]:
    """A `paste.server_factory`."""
    return lambda app: serve(app, global_conf, **settings)


def arguments_of(settings: Mapping[str, str]) -> list[str]:
    """Flags for the settings of a section."""
    from muxwsgi.cli.options import OPTIONS

    known = {option.name: option for option in OPTIONS}
    settings = dict(settings)
    arguments: list[str] = []
    host, port = settings.pop("host", ""), settings.pop("port", "")
    if host or port:
        arguments += ["--bind", joined_bind(host or "127.0.0.1", port or 8000)]
    for name, text in settings.items():
        option = known.get(name)
        if option is None:
            _fail(f"{name} is no setting of muxwsgi")
        if option.kind is bool:
            if text.lower() in ("true", "yes", "on", "1"):
                arguments.append(option.flag)
            elif text.lower() not in ("false", "no", "off", "0"):
                _fail(f"{name}: {text!r} is not true or false")
        else:
            for value in text.split() if option.many else [text]:
                arguments += [option.flag, value]
    return arguments


def _fail(problem: str) -> NoReturn:
    print(f"muxwsgi: [server:...]: {problem}", file=sys.stderr)
    raise SystemExit(2)


def application() -> Any:
    """The application of the file, with the logging that the file describes."""
    from paste.deploy import loadapp

    told = json.loads(os.environ[_VARIABLE])
    values = told["values"]
    path = values["__file__"]
    with open(path, encoding="utf-8") as file:
        logs = any(line.strip() == "[loggers]" for line in file)
    if logs:
        logging.config.fileConfig(path, {"__file__": path, "here": os.path.dirname(path)}, disable_existing_loggers=False)
    return loadapp(f"config:{path}", name=told["app"], global_conf=values)
