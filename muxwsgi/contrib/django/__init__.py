"""A Django app with the command `manage.py runmux`: `"muxwsgi.contrib.django"` in INSTALLED_APPS."""
