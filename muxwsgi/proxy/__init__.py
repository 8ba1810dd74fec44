"""The forward proxy: a WSGI application that takes connections over, and asks its own inner mux about what runs in them."""
