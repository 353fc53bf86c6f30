"""``./dev release``: what a release of the package uploads. ``release.yml`` calls each step; RELEASING.md explains."""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from environment.errors import UserError
from environment.sources import CHECKOUT
from environment.tools import declared

PACKAGE = CHECKOUT / "packages" / "celery-postgres"
#: Where `build` puts the sdist and the wheel, and `sbom` the list of components.
DIST = CHECKOUT / "dist"


def release(arguments: Sequence[str]) -> int:
    """Run one step.

    Raises:
        UserError: the step is unknown, or something about the release is wrong.
    """
    steps: dict[str, Callable[..., None]] = {"check": check, "build": build, "sbom": sbom, "publish": publish}
    name, *rest = arguments or [""]
    if name not in steps or len(rest) != (name == "check"):
        raise UserError("./dev release takes one of: check TAG, build, sbom, publish")
    steps[name](*rest)
    return 0


def version(package: Path = PACKAGE) -> str:
    """The package's ``__version__``, without importing it."""
    text = (package / "src" / "celery_postgres" / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE)
    if found is None:
        raise UserError("celery_postgres/__init__.py has no __version__")
    return found[1]


def check(tag: str, package: Path = PACKAGE) -> None:
    """Compare a tag with the version and with the package's changelog.

    Raises:
        UserError: they disagree.
    """
    number = version(package)
    if tag != f"v{number}":
        raise UserError(f"the tag is {tag} and the package's version is {number}: the tag must be v{number}")
    changelog = (package / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", changelog, re.MULTILINE)
    if not headings or not re.fullmatch(rf"{re.escape(number)} - \d{{4}}-\d\d-\d\d", headings[0]):
        first = headings[0] if headings else "none"
        raise UserError(f"the first heading of the package's CHANGELOG is {first}: it must be {number} - YYYY-MM-DD")
    print(f"dev: {tag} agrees with __version__ and the changelog")


def build() -> None:
    """Build the sdist, and of it the wheel, into an empty ``dist/``; check both."""
    shutil.rmtree(DIST, ignore_errors=True)
    _python("build", "--outdir", str(DIST), str(PACKAGE))
    _python("twine", "check", "--strict", *map(str, _distributions()))
    (wheel,) = DIST.glob("*.whl")
    _python("check_wheel_contents", "--config", str(PACKAGE / "pyproject.toml"), str(wheel))


def sbom() -> None:
    """Write ``dist/celery-postgres-VERSION.cdx.json``: the components of an installation of the wheel with a driver."""
    from environment.bootstrap import install, make_venv

    (wheel,) = (path for path in _distributions() if path.suffix == ".whl")
    with tempfile.TemporaryDirectory(prefix="skeldir-sbom-") as scratch:
        installed = Path(scratch) / "venv"
        make_venv(installed)
        install(installed, [f"{wheel}[binary]"])
        subprocess.run([installed / "bin/python", "-m", "pip", "uninstall", "--yes", "--quiet", "pip"], check=True)
        target = DIST / f"celery-postgres-{version()}.cdx.json"
        command = [*("environment", "--output-reproducible", "--of", "JSON"), "--output-file", str(target)]
        command += ["--pyproject", str(PACKAGE / "pyproject.toml"), str(installed / "bin/python")]
        _run(_publishing_tools(), "-m", "cyclonedx_py", *command)
    print(f"dev: wrote {target}")


def publish() -> None:
    """Sign and upload what ``dist/`` has. Only within the workflow, whose identity PyPI trusts.

    Raises:
        UserError: this is no workflow of GitHub with ``id-token: write``.
    """
    if not os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"):
        raise UserError("only release.yml publishes: it has an identity that PyPI trusts, and nobody has a password")
    files = [str(path) for path in _distributions()]
    _run(_publishing_tools(), "-m", "pypi_attestations", "sign", *files)
    attestations = [f"{path}.publish.attestation" for path in files]
    _python("twine", "upload", "--non-interactive", "--disable-progress-bar", "--attestations", *files, *attestations)


def _distributions() -> list[Path]:
    found = [*DIST.glob("*.tar.gz"), *DIST.glob("*.whl")]
    if len(found) != 2:
        raise UserError("dist/ has no sdist and wheel of one version: run ./dev release build")
    return found


def _publishing_tools() -> Path:
    """The Python of ``.venv-publish``."""
    from environment.bootstrap import install, make_venv

    folder = CHECKOUT / ".venv-publish"
    if not (folder / "installed").exists():
        shutil.rmtree(folder, ignore_errors=True)
        make_venv(folder)
        install(folder, declared()["optional-dependencies"]["publish"])
        (folder / "installed").touch()
    return folder / "bin" / "python"


def _python(module: str, *words: str) -> None:
    _run(Path(sys.executable), "-m", module, *words)


def _run(*words: str | Path) -> None:
    """Run a tool, without this checkout on its path.

    Raises:
        UserError: it failed.
    """
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    if status := subprocess.run(words, cwd=CHECKOUT, env=variables, check=False).returncode:
        raise UserError(f"{' '.join(str(word) for word in words[1:4])} failed with status {status}")
