"""Django: the usual middleware, a URL pattern and a template with a table of twenty rows; no database."""

import django
from django.conf import settings
from django.core.handlers.wsgi import WSGIHandler
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.urls import path

PAGE = """<!doctype html>
<html lang="en"><head><title>{{ title }}</title></head>
<body><h1>{{ title|upper }}</h1>
<table>{% for row in rows %}
<tr class="{% cycle 'odd' 'even' %}"><td>{{ forloop.counter }}</td><td>{{ row.name }}</td><td>{{ row.votes }} vote{{ row.votes|pluralize }}</td></tr>{% endfor %}
</table></body></html>
"""
ROWS = [{"name": f"answer <{number}>", "votes": number % 3} for number in range(20)]

settings.configure(
    SECRET_KEY="of a benchmark, which keeps no secrets",
    ALLOWED_HOSTS=["*"],
    ROOT_URLCONF=__name__,
    MIDDLEWARE=[
        "django.middleware.security.SecurityMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
    ],
    TEMPLATES=[
        {
            "BACKEND": "django.template.backends.django.DjangoTemplates",
            "OPTIONS": {
                "loaders": [
                    ("django.template.loaders.cached.Loader", [("django.template.loaders.locmem.Loader", {"page.html": PAGE})]),
                ]
            },
        }
    ],
)
django.setup()


def page(request: HttpRequest) -> HttpResponse:
    return render(request, "page.html", {"title": "Results", "rows": ROWS})


urlpatterns = [path("results/", page)]
application = WSGIHandler()
