"""The WSGI applications that every server runs. Their answers depend on the request alone: they are compared byte for byte."""
