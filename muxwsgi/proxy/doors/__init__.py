"""Front doors, which accept clients: HTTP, SOCKS, transparent connections. Access control and the proxy's own pages."""
