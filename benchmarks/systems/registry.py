"""All systems, by name and in the order of the tables."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from benchmarks.systems import System
from environment.temporary import TemporaryCluster

#: Opens a system; what it starts is stopped by the stack.
Opener = Callable[[TemporaryCluster, ExitStack], System]
