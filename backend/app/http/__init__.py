"""The HTTP front: people and services give work to the workers, and see what became of it."""
