"""The admin process: what it serves, and how it asks the workers. It imports no application, and nothing of the proxy."""
