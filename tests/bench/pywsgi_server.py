"""gevent's own WSGI server with the application: python pywsgi_server.py PORT [CERTFILE KEYFILE]"""

import sys

from gevent import monkey

monkey.patch_all()

from gevent.pywsgi import WSGIServer

from tests.bench.hello import application

tls = {"certfile": sys.argv[2], "keyfile": sys.argv[3]} if len(sys.argv) > 2 else {}
WSGIServer(("127.0.0.1", int(sys.argv[1])), application, log=None, **tls).serve_forever()
