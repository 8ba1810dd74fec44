"""`make bench`: servers and proxies in turn under the same loads.

Where to find what:

    loads       what the clients do, and who takes part
    peers       servers of WSGI applications; `streams` servers of plain bytes, `proxies` forward proxies
    packages    which of them could be installed, and why not
    visitors    the requests of `browser-varied`, none of which is like the one before
    clients     the load generators, each a process of its own; the Python ones are in `generators`
    measure     one turn of one peer under one load, a start, or its reloads
    run         the rounds; `table`, `plot` and `report` show what came out (`results`)
"""
