"""What the proxy adds to the connections that it opens: TLS with the upstream, the pool, and what flows say of them."""
