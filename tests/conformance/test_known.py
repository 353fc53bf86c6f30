"""When ``./dev conformance`` fails, and when not."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.__main__ import PAGE
from tests.conformance.known import OURS, REDIS, ended, read, wrong
from tests.conformance.suites import SUITES

TABLE = """# Any page

| suite | test | fails on | reason |
|---|---|---|---|
| celery | `t/a.py::test_ours` | celery_postgres | because of this |
| celery | `t/a.py::test_both[x | y]` | both | because of that |
| kombu | `t/b.py::test_redis` | Redis | it cannot |
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    page = tmp_path / "page.md"
    page.write_text(TABLE)
    return page


def test_the_table_is_read(page: Path) -> None:
    known = read(page)
    assert known["celery", "t/a.py::test_both[x | y]"].systems == {OURS, REDIS}
    assert known["kombu", "t/b.py::test_redis"].systems == {REDIS}
    assert known["celery", "t/a.py::test_ours"].reason == "because of this"


@pytest.mark.parametrize(
    "line",
    [
        "| celery | `t/a.py::test_ours` | both | a second time |",
        "| celery | `t/a.py::test_new` | RabbitMQ | of no interest |",
    ],
)
def test_a_table_that_contradicts_itself_is_refused(page: Path, line: str) -> None:
    page.write_text(f"{TABLE}{line}\n")
    with pytest.raises(ValueError, match=r"page\.md"):
        read(page)


def test_what_is_as_listed_is_right(page: Path) -> None:
    known = read(page)
    as_listed = {"t/a.py::test_ours": "failed", "t/a.py::test_both[x | y]": "failed", "t/a.py::test_other": "passed"}
    assert wrong("celery", as_listed, known) == []
    # With --quick most of what is listed does not run.
    assert wrong("celery", {"t/a.py::test_other": "passed"}, known) == []
    assert wrong("celery", {"t/a.py::test_ours": "skipped"}, known) == []


def test_a_failure_that_is_not_listed_is_wrong(page: Path) -> None:
    known = read(page)
    assert wrong("celery", {"t/a.py::test_other": "failed"}, known) == ["t/a.py::test_other fails, and is not listed"]
    # Listed for the other suite; and for Redis alone.
    assert len(wrong("celery", {"t/b.py::test_redis": "failed"}, known)) == 1
    assert len(wrong("kombu", {"t/b.py::test_redis": "failed"}, known)) == 1


def test_what_is_listed_and_passes_is_wrong(page: Path) -> None:
    known = read(page)
    assert wrong("celery", {"t/a.py::test_ours": "passed"}, known) == ["t/a.py::test_ours is listed, and passes"]
    assert wrong("kombu", {"t/b.py::test_redis": "passed"}, known) == []


def test_a_test_ends_as_its_worst_part() -> None:
    parts = [
        ("passes", "passed", False, ""),
        ("passes", "passed", False, ""),
        ("torn down badly", "passed", False, ""),
        ("torn down badly", "failed", False, "E"),
        ("skipped", "skipped", False, ""),
        ("skipped", "passed", False, ""),
        ("expected to fail", "passed", False, ""),
        ("expected to fail", "skipped", True, ""),
    ]
    assert ended(parts) == {
        "passes": "passed",
        "torn down badly": "failed",
        "skipped": "skipped",
        "expected to fail": "xfailed",
    }


def test_the_page_of_the_project_can_be_read() -> None:
    """Every line has a reason, and names a suite that there is."""
    known = read(PAGE)
    assert {suite for suite, _ in known} <= set(SUITES)
    assert all(one.reason.strip() for one in known.values())
    rows = [line for line in PAGE.read_text().splitlines() if line.startswith("| ") and "::" in line]
    assert len(rows) == len(known)
