"""Celery's command line, with the working directory last on the path, and quick to start a worker.

Celery puts the working directory first while it loads an application, and then a folder ``app`` that happens to be
there is taken for ours.  It leaves a path alone that has the working directory already, so ``-I my_tasks`` still finds
what lies there.

All of Celery's commands are imported before one is run: the shell of ``celery amqp`` with prompt_toolkit (0.24 s), and
what other packages add, such as Flower (0.15 s).  That is two thirds of the time, and no worker or beat needs either.
"""

import importlib.metadata
import os
import sys
from types import ModuleType
from typing import Any

from celery.__main__ import main


def _leave_out_other_commands() -> None:
    shell: Any = ModuleType("click_repl")
    shell.register_repl = lambda group: None
    sys.modules.setdefault("click_repl", shell)
    entry_points: Any = importlib.metadata.entry_points
    metadata: Any = importlib.metadata
    metadata.entry_points = lambda **which: () if which == {"group": "celery.commands"} else entry_points(**which)
    try:
        import celery.bin.celery  # noqa: F401
    finally:
        metadata.entry_points = entry_points


if __name__ == "__main__":
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    if not {"worker", "beat"}.isdisjoint(sys.argv):
        _leave_out_other_commands()
    sys.argv[0] = "celery"  # the name in its messages, which the application checks
    main()
