"""The CA, the leaf certificates that it signs, and the hosts whose TLS is not intercepted."""
