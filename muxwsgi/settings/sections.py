"""The sections of docs/configuration.md, in the order of the page."""

__all__ = ["ADMIN", "APP", "BIND", "DEVELOPMENT", "FRONT", "HTTP", "LOGS", "PROCESS", "ROUTES", "SECTIONS", "TLS", "WORKERS"]

BIND = "Where to listen"
TLS = "TLS"
ROUTES = "Which route gets a connection"
HTTP = "HTTP"
FRONT = "Behind a proxy"
APP = "The application"
PROCESS = "The process"
WORKERS = "Workers"
LOGS = "Logs"
ADMIN = "Metrics and control"
DEVELOPMENT = "Development"

SECTIONS = (BIND, TLS, ROUTES, HTTP, FRONT, APP, PROCESS, WORKERS, LOGS, ADMIN, DEVELOPMENT)
