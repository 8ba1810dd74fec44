"""gevent's own WSGI server. Without a context it would make one for every TLS connection, and no session could be resumed."""

from gevent import monkey

monkey.patch_all()

import ssl

from gevent.pywsgi import WSGIServer

from tests.bench.servers.arguments import read

arguments = read()
tls: dict[str, ssl.SSLContext] = {}
if arguments.files:
    tls["ssl_context"] = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls["ssl_context"].load_cert_chain(*arguments.files)
WSGIServer(("127.0.0.1", arguments.port), arguments.application(), log=None, backlog=2048, **tls).serve_forever()
