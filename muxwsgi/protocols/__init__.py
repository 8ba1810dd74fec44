"""One protocol, one file: how its first bytes are recognised."""
