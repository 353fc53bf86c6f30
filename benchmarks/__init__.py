"""``./dev bench``: this project beside other systems, and beside its own commits; ``scale``: where one server ends.

* ``cells/``: what is measured; ``cells/__init__.py`` says how to declare a cell, ``cells/all.py`` lists them.
* ``systems/``: what is compared; ``systems/__init__.py`` says how to declare a system, ``registry.py`` lists them.
* ``programs/`` and ``node/``: what runs in other processes: workers and publishers of the systems.
* ``run.py`` interleaves and makes samples, ``samples.py`` is their journal, ``figures.py`` the arithmetic,
  ``report.py`` and ``plots.py`` the page, ``against.py`` the comparison of two commits.
* ``scale*.py`` and ``cells/scale_*.py``: the same for ``./dev bench scale``, which asks this project alone.

Servers, workers and their journals are those of ``environment/testkit``.  Benchmarks fail only if they cannot measure;
everything that they need they start themselves, on the loopback interface, and stop again.
"""
