"""Ways in, and who may use them: SOCKS, transparent connections, access control, the proxy's own pages."""
