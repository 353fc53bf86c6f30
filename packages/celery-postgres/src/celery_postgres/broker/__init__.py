"""The Kombu transport: connections, channels, publishing and consuming."""
