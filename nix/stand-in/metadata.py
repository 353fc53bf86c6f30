"""What importlib.metadata reads of an installed package: name, version and entry points, from its pyproject.toml."""

import sys
import tomllib
from pathlib import Path


def main(pyproject: str, version: str, site: str) -> None:
    """Write the folder beside the modules."""
    project = tomllib.loads(Path(pyproject).read_text())["project"]
    name = project["name"]
    folder = Path(site) / f"{name.replace('-', '_')}-{version}.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    lines = []
    for group, entries in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{key} = {value}" for key, value in entries.items()), ""]
    (folder / "entry_points.txt").write_text("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
