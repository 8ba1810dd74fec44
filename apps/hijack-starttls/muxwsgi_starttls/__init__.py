"""Two fronts that do TLS for servers that have none: for PostgreSQL (`postgresql`) and SMTP (`smtp`). Their clients begin in plain text."""
