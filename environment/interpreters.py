"""Find a Python of another version on this machine. Standard library only."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path


def find_python(version: str) -> Path | None:
    """The interpreter of a version such as ``3.13``, or None.

    Searches PATH, then the versions that pyenv has installed: its commands on PATH refuse the versions that are not
    selected.
    """
    if version == ".".join(map(str, sys.version_info[:2])):
        return Path(sys.executable)
    name = f"python{version}"
    candidates = [Path(found)] if (found := shutil.which(name)) else []
    root = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    with suppress(OSError):  # another account's
        candidates += sorted(root.glob(f"{version}.*/bin/{name}"), reverse=True)
    for candidate in candidates:
        if _runs(candidate, version):
            return candidate
    return None


def _runs(python: Path, version: str) -> bool:
    program = "import sys; print('.'.join(map(str, sys.version_info[:2])))"
    try:
        done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False)
    except OSError:
        return False
    return done.stdout.strip() == version
