"""Where Python finds this checkout's packages. Standard library only, for the bootstrap."""

import os
from collections.abc import Mapping
from pathlib import Path

#: The root of the source tree that this file belongs to.
CHECKOUT = Path(__file__).resolve().parent.parent

#: Relative to the root, in the order of ``sys.path``: the package, the application, then ``environment`` and the tests.
FOLDERS = ("packages/celery-postgres/src", "backend", ".")


def source_folders(checkout: Path = CHECKOUT) -> list[str]:
    """The absolute paths of ``FOLDERS``."""
    return [str(checkout / folder) for folder in FOLDERS]


def python_path(environ: Mapping[str, str] = os.environ, checkout: Path = CHECKOUT) -> str:
    """``PYTHONPATH`` with our packages first, followed by the entries that it already has."""
    return os.pathsep.join(filter(None, [*source_folders(checkout), environ.get("PYTHONPATH", "")]))
