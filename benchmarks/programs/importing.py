"""What ``import celery_postgres`` and ``install()`` cost this interpreter, as JSON."""

from __future__ import annotations

import importlib
import json
import sys
import time

#: What a Celery program on PostgreSQL has imported anyway.
_ANYWAY = ("celery.app.base", "celery.backends.base", "kombu.transport.virtual", "kombu.messaging", "psycopg2.extras")


def main() -> None:
    """Import, and print what it took."""
    begin = time.process_time()
    for name in _ANYWAY:
        importlib.import_module(name)
    anyway, before = time.process_time(), set(sys.modules)
    importlib.import_module("celery_postgres").install()
    end = time.process_time()
    own = (end - anyway) * 1000
    print(json.dumps({"import_ms": (end - begin) * 1000, "own_ms": own, "modules": len(set(sys.modules) - before)}))


if __name__ == "__main__":
    main()
