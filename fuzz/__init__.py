"""Hostile input for what reads it first. Each target module has `SEEDS` and `check(data)`, which fails with an
AssertionError, or whatever the product lets out, where a promise is broken; the tests use the same checks."""
