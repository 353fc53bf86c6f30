"""The HTTP front: people and services submit tasks to the workers, and see their results."""
