"""Where Python finds this checkout's packages. Standard library only, for the bootstrap."""

import os
from collections.abc import Mapping
from pathlib import Path

#: The root of the source tree that this file belongs to.
CHECKOUT = Path(__file__).resolve().parent.parent

#: Set, if the package is installed as other projects install it, so that it must not be found in this checkout.
INSTALLED_PACKAGE = "SKELDIR_INSTALLED_PACKAGE"

#: Relative to the root, in the order of ``sys.path``: the package, the application, then ``environment`` and the tests.
PACKAGE_FOLDER = "packages/celery-postgres/src"
FOLDERS = (PACKAGE_FOLDER, "backend", ".")


def source_folders(checkout: Path = CHECKOUT) -> list[str]:
    """The absolute paths of ``FOLDERS``, without the package where it is installed."""
    installed = bool(os.environ.get(INSTALLED_PACKAGE))
    return [str(checkout / folder) for folder in FOLDERS if not (installed and folder == PACKAGE_FOLDER)]


def python_path(environ: Mapping[str, str] = os.environ, checkout: Path = CHECKOUT) -> str:
    """``PYTHONPATH`` with our packages first, followed by the entries that it already has."""
    return os.pathsep.join(filter(None, [*source_folders(checkout), environ.get("PYTHONPATH", "")]))
