"""What the foreign proxies load to answer by themselves."""
