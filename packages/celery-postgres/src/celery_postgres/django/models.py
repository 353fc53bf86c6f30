"""There are no models. Django announces migrations (`pre_migrate`) only to apps that have this module."""
