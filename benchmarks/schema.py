"""Make our broker's tables in an empty database: ``python -m benchmarks.schema URL``.

With ``--look`` only say whether there is a transport of ours.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys

from sqlalchemy import create_engine

from environment.sources import CHECKOUT


def main(url: str) -> None:
    """By the package's own function, as another Celery project would; by the migrations where it has none."""
    package = importlib.import_module("celery_postgres")
    package.install  # noqa: B018  an AttributeError says that it is not done yet
    if url == "--look":
        print(json.dumps(True))
        return
    create = getattr(package, "create_schema", None)
    if create is not None:
        engine = create_engine(url)
        create(engine)
        engine.dispose()
    else:
        subprocess.run(
            [sys.executable, "-m", "environment.cli", "migrate"],
            env={**os.environ, "DATABASE_URL": url},
            cwd=CHECKOUT,
            check=True,
            stdout=sys.stderr,
        )
    print(json.dumps(True))


if __name__ == "__main__":
    main(sys.argv[1])
