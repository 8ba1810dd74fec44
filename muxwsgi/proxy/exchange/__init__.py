"""One request to the upstream, and its response back."""
