"""``./dev bench scale``: samples are made and resumed, and both pages are made of them and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks import scale, scale_page, scale_sizing
from benchmarks.cells import Cell, scale_parts
from benchmarks.run import Run
from benchmarks.samples import Samples
from benchmarks.systems.celery_systems import PostgresSystem
from environment.installation import DEFAULT_MAJOR
from environment.testkit import servers
from environment.waiting import wait_until
from tests.benchmarks.test_report import part


def test_the_pages_show_the_samples_beside_them() -> None:
    made = scale_page.texts(Samples(scale.OWN / "raw"))
    texts = {page: page.read_text() for page in (scale_page.OWN, scale_page.GUIDE)}
    for name, content in made.items():
        places = [page for page, text in texts.items() if f"<!-- {name} -->" in text]
        assert len(places) == 1, name
        assert part(places[0], name) == content.rstrip(), name
    for name in ("workers", "publishers", "connections", "queues", "backlog", "payload"):
        assert part(scale_page.OWN, f"plot {name}") == f"![{name}](scale/{name}.svg)"
        assert (scale.OWN / f"{name}.svg").stat().st_size > 10_000


def test_the_lowest_rate_comes_first_and_what_was_not_measured_is_left_out(tmp_path: Path) -> None:
    samples = Samples(tmp_path)
    for variant, rate in (("1 alone", 900.0), ("8 alone", 2_400.0), ("8 woken", 700.0)):
        samples.add("publishers", variant, {"rate": rate, "server_us": 300.0})
    samples.add("workers", "1", {"rate": 2_000.0, "server_us": 100.0})
    for variant, tps in (("1 plain", 2_000.0), ("16 plain", 12_000.0), ("1 notify", 3_000.0), ("16 notify", 1_700.0)):
        samples.add("notify", variant, {"tps": tps})
    found = [(rate, what) for what, rate, _ in scale_sizing.task_rates(scale_sizing.Figures(samples, 2))]
    assert [rate for rate, _ in found] == [700, 1_700, 2_000, 2_400, 5_000, 12_000, 20_000]
    assert found[0][1] == "publishes beside idle workers"
    assert (5_000, "the server's processors") in found
    assert not any("disk" in what for _, what in found)


def test_a_deployment_needs_the_sum_of_its_parts_and_a_quarter() -> None:
    three = scale_sizing.Deployment("three", workers=3, children=8, rate=1, beats=2, web=20)
    assert three.connections() == 3 * 20 + 2 * 2 + 20 * 2
    assert three.max_connections() == 140


@pytest.mark.parametrize(("number", "text"), [(999, "999 B"), (1_500, "1.5 kB"), (12e9, "12 GB"), (2.5e12, "2.5 TB")])
def test_bytes_are_shown_for_people(number: float, text: str) -> None:
    assert scale_sizing.size(number) == text


def test_a_run_resumes_and_begins_nothing_after_its_time(tmp_path: Path) -> None:
    samples, asked = Samples(tmp_path), []

    def measure(_: Run, variant: str) -> dict[str, str]:
        asked.append(variant)
        return {"seen": variant}

    cell = Cell("parts", lambda run: ["one", "two"], measure, per_system=False)
    for until, missing, seen in ((0.0, 2, []), (float("inf"), 0, ["one", "two"]), (0.0, 0, ["one", "two"])):
        left = scale.missing([cell], samples, quick=True, major=DEFAULT_MAJOR, until=until)
        assert (left, asked) == (missing, seen)


@pytest.fixture(scope="module")
def system() -> Iterator[PostgresSystem]:
    """The system of the package on a server of its own."""
    with servers.postgres(DEFAULT_MAJOR) as cluster:
        yield PostgresSystem(cluster, ours=True)


def test_a_fleet_works_and_ends(system: PostgresSystem, tmp_path: Path) -> None:
    run = Run(True, {"ours": system}, Samples(tmp_path))
    with system.fresh(results=True) as broker:
        with scale_parts.fleet(broker, 3, late=True) as workers:
            assert scale_parts.sessions(run, broker)["connections"] >= 3 * 3
            done = scale_parts.together(broker, 2, 0.3)
            assert workers.run_until(done["published"] + done["warm_up"], 60) == done["published"] + done["warm_up"]
            wait_until(lambda: broker.waiting() == 0, 20, "the acknowledgements")
            looked = scale_parts.look(broker, 1)
            assert min(looked.values()) > 0
        wait_until(lambda: scale_parts.sessions(run, broker)["connections"] == 0, 10, "the workers to end")


def test_what_a_task_writes_is_counted(system: PostgresSystem, tmp_path: Path) -> None:
    run = Run(True, {"ours": system}, Samples(tmp_path))
    (payload,) = [cell for cell in scale.CELLS.values() if cell.name == "payload"]
    found = payload.sample(run, "1000000 results off")
    # sized() repeats no long text, and the server stores what does not fit into a page in whole or by lz4.
    assert 300_000 < found["message_bytes"] < 1_500_000
    assert 300_000 < found["publish_wal"] < 1_500_000
    # Twenty publishes, each of which asks where to copy its message to; and what a session asks when it begins.
    assert 2 <= found["publish_transactions"] < 3
