"""For the time in which an application is written."""

from typing import Literal

from muxwsgi.record import record
from muxwsgi.setting import check, setting
from muxwsgi.settings.sections import DEVELOPMENT

__all__ = ["DevelopmentSettings"]


@record(kw_only=True)
class DevelopmentSettings:
    """What a worker does for a developer."""

    reload: bool = setting(
        False,
        "Reload when a module, a template, the configuration or a certificate changes. While the application cannot be loaded, a page says "
        "why.",
        section=DEVELOPMENT,
    )
    reload_engine: Literal["auto", "poll", "inotify"] = setting(
        "auto",
        "How changes are noticed: inotify needs watchfiles (pip install 'muxwsgi[reload]'), poll looks at all files, and auto is inotify "
        "if watchfiles is installed.",
        section=DEVELOPMENT,
        choices=("auto", "poll", "inotify"),
    )
    reload_extra_files: tuple[str, ...] = setting(
        (),
        "Watch this file too; a pattern such as conf/**/*.yaml stands for all that it fits, new ones too.",
        section=DEVELOPMENT,
        unit="FILE",
        flags=("--reload-extra-file",),
    )
    debug: bool = setting(
        False,
        "Show errors of the application in werkzeug's debugger, for requests from this machine. All binds have to be on loopback.",
        section=DEVELOPMENT,
    )

    def __post_init__(self) -> None:
        check(self)
