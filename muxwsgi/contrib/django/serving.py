"""What `manage.py runmux` serves. `muxwsgi run muxwsgi.contrib.django.serving:application()` does the same with DJANGO_SETTINGS_MODULE."""

from typing import Any

__all__ = ["application", "with_static_files"]


def application() -> Any:
    """The application of the project: WSGI_APPLICATION in its settings, or Django's."""
    from django.core.servers.basehttp import get_internal_wsgi_application

    return get_internal_wsgi_application()


def with_static_files() -> Any:
    """The same, and the files of its apps below STATIC_URL, found by `django.contrib.staticfiles`. For development."""
    from django.contrib.staticfiles.handlers import StaticFilesHandler

    return StaticFilesHandler(application())
