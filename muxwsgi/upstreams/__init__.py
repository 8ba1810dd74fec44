"""The servers behind `forward:`: which one gets a connection, how it is connected to, and whether it is up."""
