"""The benchmarks' page: made of the samples that lie beside it, and of nothing else."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import faster, report
from benchmarks.about import MismatchError, remember
from benchmarks.samples import Samples
from environment.sources import CHECKOUT


def part(page: Path, name: str) -> str:
    """What a page has in a generated place."""
    text = page.read_text()
    begin, end = f"<!-- {name} -->\n", f"\n<!-- end {name} -->"
    assert text.count(begin) == 1, name
    return text.partition(begin)[2].partition(end)[0]


def test_the_page_shows_the_samples_beside_it_and_the_readme_shows_its_plot() -> None:
    page = report.OWN / "README.md"
    made = report.texts(Samples(report.OWN / "raw"))
    for name, content in made.items():
        assert part(page, name) == content.rstrip(), name
    assert "](docs/benchmarks/glance.svg)" in (CHECKOUT / "README.md").read_text()
    for name in ("glance", "latency", "backlog", "pinned", "fleet", "soak"):
        if shown := part(page, f"plot {name}"):
            assert shown == f"![{name}]({name}.svg)"
            assert (report.OWN / f"{name}.svg").stat().st_size > 10_000


def test_the_page_has_a_place_for_every_table(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    known = {"systems": {"ours": {"label": "celery_postgres", "durable": "yes"}}}
    found = report.all_tables(Samples(tmp_path), [("ours", "celery_postgres")], known)
    report.fill(page, found, report.OWN / "README.md")
    for name, content in found.items():
        assert part(page, name) == content.rstrip()


def test_a_sample_survives_the_end_of_a_run(tmp_path: Path) -> None:
    first = Samples(tmp_path)
    first.add("drain", "ours 0ms plain", {"rate": 1.0}, others_before=0.0)
    with (tmp_path / "drain.jsonl").open("a") as file:
        file.write('{"variant": "ours 0ms plain", "result": {"ra')  # the run was killed here

    again = Samples(tmp_path)
    assert again.of("drain") == {"ours 0ms plain": [{"rate": 1.0}]}
    again.add("drain", "ours 0ms plain", {"rate": 3.0})
    assert again.of("drain") == {"ours 0ms plain": [{"rate": 1.0}, {"rate": 3.0}]}


def test_a_page_keeps_what_is_written_by_hand(tmp_path: Path) -> None:
    page = tmp_path / "README.md"
    page.write_text("before\n<!-- a -->\nold\n<!-- end a -->\nbetween \\1\n<!-- b -->\n<!-- end b -->\nafter\n")
    report.fill(page, {"a": r"new \g<1>", "b": "second", "c": "has no place"})
    assert page.read_text() == (
        "before\n<!-- a -->\nnew \\g<1>\n<!-- end a -->\nbetween \\1\n<!-- b -->\nsecond\n<!-- end b -->\nafter\n"
    )


def test_samples_of_two_machines_are_not_mixed(tmp_path: Path) -> None:
    remember(tmp_path, {}, {"redis": "not there"})
    remember(tmp_path, {}, {})
    text = (tmp_path / "about.json").read_text()
    (tmp_path / "about.json").write_text(text.replace('"processors": ', '"processors": 9'))
    with pytest.raises(MismatchError, match="two machines"):
        remember(tmp_path, {}, {})


def test_samples_of_two_versions_are_not_mixed(tmp_path: Path) -> None:
    def system(postgres: str) -> Any:
        return SimpleNamespace(
            label="Ours",
            durable="yes",
            settings="",
            concurrency=1,
            skips={},
            **dict.fromkeys(("bulk", "results", "late", "prefork", "chords"), True),
            versions=lambda: {"PostgreSQL": postgres},
        )

    remember(tmp_path, {"ours": system("16.14")}, {})
    remember(tmp_path, {"ours": system("16.14")}, {})
    with pytest.raises(MismatchError, match=r"Ours with PostgreSQL 16\.14, here it has PostgreSQL 15\.18"):
        remember(tmp_path, {"ours": system("15.18")}, {})


def test_a_table_shows_medians_and_spreads_and_leaves_out_who_has_no_figure(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for rate in (900, 1_100, 1_000):
        samples.add("drain", "ours 0ms plain", {"rate": rate, "worker_us": 80.04, "server_us": 20, "operations": 0.02})
    samples.add("enqueue", "ours one_by_one", {"rate": 2_000, "client_us": 200, "server_us": 90, "operations": 1})
    samples.add("enqueue", "ours in_bulk", {"rate": None})
    order = [("ours", "celery_postgres"), ("redis", "Celery on Redis")]
    found = report.all_tables(samples, order, {"systems": {"ours": {"durable": "yes: fsync"}}})

    assert "| **celery_postgres** | 1,000 <sub>900 … 1,100</sub> | - | - |" in found["drain"]
    assert "| **celery_postgres** | yes | 2,000 | - | - | - | - | 1,000 | - | - / - |" in found["glance"]
    assert "| **celery_postgres** | 80.0 | 20.0 | 0.02 |" in found["cost"]
    assert all("Redis" not in table for table in found.values())


def test_where_others_are_faster_is_found_in_the_samples(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for name, published, started_ms in (("ours", 1_000, 4.0), ("redis", 2_000, 3.95), ("stock", 500, 2.0)):
        samples.add("enqueue", f"{name} one_by_one", {"rate": published})
        samples.add("latency", f"{name} idle", {"p50": started_ms})
        samples.add("drain", f"{name} 1ms plain", {"rate": 1_000 - published})
    samples.add("enqueue", "memory one_by_one", {"rate": 9_000})  # a ceiling is no rival
    samples.add("chord", "redis solo", {"gap": 1.0})  # without ours there is nothing to compare
    order = [("ours", "celery_postgres"), ("redis", "Redis"), ("stock", "Stock"), ("memory", "Memory")]
    rows = faster.slower(samples, order).splitlines()[2:]

    assert len(rows) == 2
    assert rows[0].startswith("| published one by one | 1,000/s | Redis 2.0 x |")
    assert rows[1].startswith("| publish to start, idle, p50 | 4.0 ms | Stock 2.0 x |")


def test_a_target_that_is_missed_is_bold(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    samples.add("processes", "ours results", {"rate": 2_000})
    samples.add("processes", "redis results", {"rate": 1_000})
    samples.add("processes", "ours late-results", {"worker_us": 400.0, "server_us": 90.0})
    samples.add("processes", "redis late-results", {"worker_us": 900.0, "server_us": 300.0})
    samples.add("fleet", "ours grown", {"worker_ms 40": 2.0, "server_ms 40": 1.0})
    assert faster.targets(samples).splitlines()[2:] == [
        "| prefork, results, early acks, against Redis | ≥ 2.7 x | **2.0 x** | - |",
        "| … processor time of a task, its worker and the server | ≤ 480 µs | **490 µs** | 1,200 µs |",
        "| 40 idle workers, each with its part of the server | ≤ 0.5 % of a core | 0.30 % of a core | - |",
    ]


def test_what_is_measured_anew_leaves_the_other_cells_alone(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for cell in ("drain", "soak"):
        samples.add(cell, "ours", {"rate": 1})
        samples.fail(cell, "redis", "it hung")
    samples.forget(["drain", "enqueue"])
    assert (samples.of("drain"), list(samples.of("soak"))) == ({}, ["ours"])
    assert list(samples.failures()) == ["soak redis"]
    assert (samples.made_at("drain"), samples.made_at("soak")[-3:]) == ("never", "UTC")


def test_what_is_left_out_is_said_with_its_reason(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    system = SimpleNamespace(
        label="Half a system",
        durable="yes",
        settings="",
        concurrency=1,
        skips={"fleet": "it has no workers"},
        versions=dict,
        **{**dict.fromkeys(("bulk", "results", "late", "prefork"), True), "chords": False},
    )
    remember(tmp_path, {"stock": system}, {"redis": "it is not installed"})  # type: ignore[dict-item]
    samples.fail("drain", "stock 0ms plain", "the worker ended with 1")

    assert report.texts(samples)["left out"].splitlines() == [
        "- Not measured with a chord: Half a system.",
        "- Half a system, `fleet`: it has no workers.",
        "- Not measured: redis (it is not installed).",
        "- Failed: `drain stock 0ms plain` (the worker ended with 1).",
    ]
