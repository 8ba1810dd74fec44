"""The Django project as a WSGI application. Its database is brought up to date when it is loaded."""

import os

from django.core.management import call_command
from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "apps.polls.settings")
application = get_wsgi_application()
call_command("migrate", interactive=False, verbosity=0)
