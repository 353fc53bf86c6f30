"""Kombu's side: the transport, its channels, and publishing."""
