"""The app's name in a project."""

from django.apps import AppConfig

__all__ = ["MuxwsgiConfig"]


class MuxwsgiConfig(AppConfig):  # type: ignore[misc]
    """Without a label, it would be named `django`."""

    name = "muxwsgi.contrib.django"
    label = "muxwsgi"
