"""Hostile input for the code that parses it first.

Each target module has `SEEDS` and `check(data)`, which raises an AssertionError, or whatever the product raises, where
a property does not hold.  The tests use the same checks.
"""
