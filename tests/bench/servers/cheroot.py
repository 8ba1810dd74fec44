"""cheroot: CherryPy's threads, ten of them as by default."""

from cheroot.ssl.builtin import BuiltinSSLAdapter
from cheroot.wsgi import Server

from tests.bench.servers.arguments import read

arguments = read()
server = Server(("127.0.0.1", arguments.port), arguments.application(), numthreads=10, request_queue_size=2048)
if arguments.files:
    server.ssl_adapter = BuiltinSSLAdapter(*arguments.files)
try:
    server.start()
finally:
    server.stop()
