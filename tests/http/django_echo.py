"""Django, saying what it got: plain, wrapped in a middleware, and beside an application that is not Django's."""

import hashlib
import os
from collections.abc import Iterable
from typing import Any

from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.urls import re_path
from werkzeug.middleware.proxy_fix import ProxyFix

if not settings.configured:
    settings.configure(ALLOWED_HOSTS=["*"], ROOT_URLCONF=__name__, SECRET_KEY="x", DATA_UPLOAD_MAX_MEMORY_SIZE=None)


def echo(request: HttpRequest) -> HttpResponseBase:
    descriptors = [os.readlink(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd") if os.path.islink(f"/proc/self/fd/{name}")]
    if request.content_type == "multipart/form-data":
        told: dict[str, Any] = {"files": {name: file.size for name, file in request.FILES.items()}}
    else:
        body = request.body
        told = {"bytes": len(body), "sha256": hashlib.sha256(body).hexdigest()}
    told |= {
        "length": request.META.get("CONTENT_LENGTH"),
        "coding": request.META.get("HTTP_TRANSFER_ENCODING"),
        "trailers": request.META.get("muxwsgi.trailers"),
        "spooled": sum("(deleted)" in each for each in descriptors),
    }
    return JsonResponse(told)


urlpatterns = [re_path("", echo)]

application = get_wsgi_application()
wrapped = ProxyFix(application)


def streaming(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """Answers each piece of a chunked body as it comes."""
    start_response("200 OK", [("X-Transfer-Encoding", environ.get("HTTP_TRANSFER_ENCODING", "none"))])
    while data := environ["wsgi.input"].read1(1000):
        yield data.upper()
