"""Measurements of the broker beside what people would pick instead: ``python -m benchmarks broker``.

Benchmarks judge nothing: they print a figure beside its target and exit with 0.  Everything they need is
started by them, on the loopback interface, and stopped again; nothing that runs already is touched.

* ``servers``, ``peers``, ``clones``: the servers, the brokers that are compared, and their filling.
* ``program``, ``journal``, ``worker``, ``producer``, ``ceiling``: what runs in other processes.
* ``cells``: one module for each question.
* ``runner``, ``record``, ``figures``: interleaving, raw JSON, the table.
"""
