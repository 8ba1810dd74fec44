"""bjoern: C on libev."""

import bjoern

from tests.bench.servers.arguments import read

arguments = read()
bjoern.run(arguments.application(), "127.0.0.1", arguments.port, listen_backlog=2048)
