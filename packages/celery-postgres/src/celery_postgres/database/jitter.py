"""Uneven pauses, so that many processes do not act as one.

From a generator of our own: our threads must not disturb the sequence of a program that has seeded Python's.
"""

from __future__ import annotations

import os
import random

_random = random.Random()  # noqa: S311  # no secret
os.register_at_fork(after_in_child=_random.seed)

#: `random.uniform`.
uniform = _random.uniform
