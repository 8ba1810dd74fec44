"""What happens to a tunnel: the rules decide, and it is relayed, intercepted, hijacked or refused."""
