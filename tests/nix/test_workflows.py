"""The GitHub workflows, as far as that can be known offline: their schema, and what they repeat."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest

from environment.cluster import APP_DATABASE, APP_ROLE
from environment.sources import CHECKOUT

pytest.importorskip("check_jsonschema", reason="nixpkgs has no Python package check-jsonschema")
yaml = pytest.importorskip("ruamel.yaml")

PACKAGE = CHECKOUT / "packages/celery-postgres"
WORKFLOWS = {path.name: path for path in (CHECKOUT / ".github/workflows").glob("*.yml")}


def load(name: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.YAML(typ="safe", pure=True).load(WORKFLOWS[name].read_text())
    return content


def steps(name: str) -> list[dict[str, Any]]:
    return [step for job in load(name)["jobs"].values() for step in job["steps"]]


def test_all_workflows_are_there() -> None:
    assert set(WORKFLOWS) == {
        "ci.yml",
        "empirical-validation.yml",
        "matrix.yml",
        "next-nixpkgs.yml",
        "nixos.yml",
        "release.yml",
    }
    assert set(load("ci.yml")["jobs"]) == {"celery-foundation", "flake", "tests"}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_follows_the_schema(name: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.github-workflows", WORKFLOWS[name]]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("dependabot", "dependabot.yml"),
        ("github-issue-config", "ISSUE_TEMPLATE/config.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", "ISSUE_TEMPLATE/idea.yml"),
    ],
)
def test_what_github_reads_beside_them_follows_its_schema(schema: str, path: str) -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", f".github/{path}"]
    done = subprocess.run(command, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_calls_scripts_of_the_project(name: str) -> None:
    """Whatever a workflow does can be done on any machine."""
    for step in steps(name):
        if "run" in step:
            program, *words = step["run"].split()
            if program == "nix":
                assert words[:2] == ["flake", "check"]
            else:
                assert (CHECKOUT / program).is_file(), step["run"]
                assert program == "./dev" or program.startswith(".ci/")


@pytest.mark.parametrize("name", WORKFLOWS)
def test_its_one_service_is_postgresql_and_its_dsn_is_ours(name: str) -> None:
    for job in load(name)["jobs"].values():
        if "services" not in job:
            continue
        assert list(job["services"]) == ["postgres"]
        ours = f"postgresql+asyncpg://{APP_ROLE}:app_user@localhost:5432/{APP_DATABASE}"
        # The cells of the package make their own databases.
        expected = "postgresql://postgres:postgres@localhost:5432/postgres" if name == "matrix.yml" else ours
        assert job["env"]["DATABASE_URL"] == expected
        assert job["services"]["postgres"]["ports"] == ["5432:5432"]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_it_names_no_other_broker(name: str) -> None:
    assert not re.search("redis|rabbit|amqp", WORKFLOWS[name].read_text(), re.IGNORECASE)


@pytest.mark.parametrize("name", WORKFLOWS)
def test_every_job_ends_some_time_and_may_only_read(name: str) -> None:
    workflow = load(name)
    assert workflow["permissions"] == {"contents": "read"}
    assert all(job["timeout-minutes"] <= 30 for job in workflow["jobs"].values())


@pytest.mark.parametrize("name", WORKFLOWS)
def test_what_others_wrote_is_pinned_by_its_commit(name: str) -> None:
    """A tag can be moved by whoever can write to that repository.  Beside the commit stands its version."""
    uses = [line.strip() for line in WORKFLOWS[name].read_text().splitlines() if re.match(r"\s*-?\s*uses:", line)]
    assert len(uses) == sum("uses" in step for step in steps(name))
    assert [
        line for line in uses if not re.fullmatch(r"- uses: [\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", line)
    ] == []


def test_an_action_has_one_commit_everywhere() -> None:
    uses = {step["uses"] for name in WORKFLOWS for step in steps(name) if "uses" in step}
    assert len(uses) == len({one.partition("@")[0] for one in uses})


@pytest.mark.parametrize("name", WORKFLOWS)
def test_no_checkout_leaves_its_token_to_what_runs_after_it(name: str) -> None:
    checkouts = [step for step in steps(name) if step.get("uses", "").startswith("actions/checkout@")]
    assert len(checkouts) == len(load(name)["jobs"])
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_the_jobs_do_what_the_contract_says() -> None:
    jobs = load("ci.yml")["jobs"]
    foundation = " ".join(step.get("run", "") for step in jobs["celery-foundation"]["steps"])
    assert "alembic upgrade head" in foundation
    assert "tests/test_b051_celery_foundation.py" in foundation
    flake = [step.get("uses", "").partition("@")[0] or step["run"] for step in jobs["flake"]["steps"]]
    assert flake[:3] == [
        "actions/checkout",
        "cachix/install-nix-action",
        "nix flake check --print-build-logs",
    ]
    assert "./dev test" in [step.get("run") for step in jobs["tests"]["steps"]]


def test_the_pin_is_moved_each_week_and_the_next_release_is_tried() -> None:
    """A release of nixpkgs is supported for seven months, and the next one comes after six."""
    updates = yaml.YAML(typ="safe", pure=True).load((CHECKOUT / ".github/dependabot.yml").read_text())["updates"]
    assert [one["schedule"] for one in updates if one["package-ecosystem"] == "nix"] == [{"interval": "weekly"}]
    found = re.search(r"github:NixOS/nixpkgs/nixos-(\d\d)\.(05|11)", (CHECKOUT / "flake.nix").read_text())
    assert found is not None
    year, month = found.groups()
    following = f"{year}.11" if month == "05" else f"{int(year) + 1:02}.05"
    job = load("next-nixpkgs.yml")["jobs"]["next"]
    assert job["continue-on-error"] is True
    assert job["steps"][-1]["run"].endswith(f"--override-input nixpkgs github:NixOS/nixpkgs/nixos-{following}")


def test_the_matrix_has_every_cell_that_the_package_names() -> None:
    versions = tomllib.loads((PACKAGE / "versions.toml").read_text())
    expected = [
        {
            "cell": "-".join(f"{part}{cell[part]}" for part in ("python", "celery", "sqlalchemy", "postgresql")),
            "python": cell["python"],
            "postgresql": cell["postgresql"],
        }
        for cell in versions["cells"]
    ]
    job = load("matrix.yml")["jobs"]["cell"]
    assert job["strategy"]["matrix"] == {"include": expected}
    assert job["strategy"]["fail-fast"] is False
    assert job["services"]["postgres"]["image"] == "postgres:${{ matrix.postgresql }}"


def test_only_the_upload_has_an_identity_and_a_reviewer() -> None:
    jobs = load("release.yml")["jobs"]
    assert {name for name, job in jobs.items() if "permissions" in job} == {"publish"}
    publish = jobs["publish"]
    assert publish["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    assert publish["environment"] == "pypi"
    assert not re.search("secrets|password|token:", WORKFLOWS["release.yml"].read_text().replace("id-token:", ""))


def test_a_release_uploads_what_was_built_and_tested() -> None:
    jobs = load("release.yml")["jobs"]
    assert (jobs["test"]["needs"], jobs["publish"]["needs"]) == ("build", "test")
    commands = {name: [step["run"] for step in job["steps"] if "run" in step] for name, job in jobs.items()}
    assert commands["build"] == [f"./dev release {word}" for word in ('check "$GITHUB_REF_NAME"', "build", "sbom")]
    assert commands["publish"] == ["./dev release publish"]
    cells = [set(cell.values()) for cell in tomllib.loads((PACKAGE / "versions.toml").read_text())["cells"]]
    assert len(cells) >= len(commands["test"][0].split("--session ")[1].split())
    for name in ("test", "publish"):
        (download,) = (s for s in jobs[name]["steps"] if s.get("uses", "").startswith("actions/download-artifact@"))
        assert download["with"] == {"name": "dist", "path": "dist/"}


def test_the_validation_is_a_command_of_the_project() -> None:
    assert [step["run"] for step in steps("empirical-validation.yml") if "run" in step] == [
        "./dev provision",
        "./dev validate",
    ]
