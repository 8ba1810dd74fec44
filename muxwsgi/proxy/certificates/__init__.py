"""The CA, the leaves that it signs, and the hosts that are passed through."""
