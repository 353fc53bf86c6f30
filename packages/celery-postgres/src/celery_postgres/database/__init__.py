"""The only room that knows the driver: addresses, sessions, statements, the schema."""
