"""Settings of the polls project. The database is a SQLite file in POLLS_DATA, by default the user's data folder."""

import os
import secrets
from pathlib import Path

DATA = Path(os.environ.get("POLLS_DATA") or Path.home() / ".local" / "share" / "muxwsgi-polls")
DATA.mkdir(mode=0o700, parents=True, exist_ok=True)

SECRET_KEY = os.environ.get("POLLS_SECRET_KEY") or secrets.token_urlsafe(48)
DEBUG = False
ALLOWED_HOSTS = os.environ.get("POLLS_HOSTS", "localhost 127.0.0.1 [::1]").split()
ROOT_URLCONF = "apps.polls.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "django.contrib.sessions", "apps.polls.polls"]
MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
TEMPLATES = [{"BACKEND": "django.template.backends.django.DjangoTemplates", "APP_DIRS": True}]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": DATA / "polls.sqlite3", "OPTIONS": {"timeout": 10}}}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
TIME_ZONE = "UTC"
