"""Tunnels: the rules decide whether a tunnel is relayed, intercepted, hijacked or refused."""
