"""The package as installed as far as entry points go, which a checkout has not."""

from __future__ import annotations

import tomllib
from pathlib import Path

from environment.sources import CHECKOUT


def declare(folder: Path) -> Path:
    """Write the package's metadata into a folder for PYTHONPATH; returns the folder."""
    declared = tomllib.loads((CHECKOUT / "packages/celery-postgres/pyproject.toml").read_text())["project"]
    metadata = folder / "celery_postgres-0.0.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: celery-postgres\nVersion: 0.0.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in declared["entry-points"].items()
    ]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder
