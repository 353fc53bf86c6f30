"""A program for each system in Python: the contract is in ``benchmarks.systems``."""
