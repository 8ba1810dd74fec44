"""Connections that the proxy opens: where they may go, how they get there, and which are kept."""
