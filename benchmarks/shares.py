"""What each of 20 tenants with a Zipf-distributed load gets, drawn: ``python -m benchmarks.shares FILE.svg``.

The messages of all tenants are published in a random order; two consumers claim 16 at a time, in turns, and as they
were published. Of each 500 messages that are claimed it draws Jain's index over the tenants that had enough left: 1 if
all got the same, and one part in their number if one got everything.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import psycopg2

from benchmarks.cells.fair import ZIPF
from celery_postgres import migrate
from environment.temporary import TemporaryCluster
from environment.testkit.turns import TurnsConsumer

MESSAGES, WINDOW, PLACES, CONSUMERS = 20_000, 500, 16, 2


def jain(shares: list[int]) -> float:
    """Jain's index."""
    squares = len(shares) * sum(one * one for one in shares)
    return sum(shares) ** 2 / squares if squares else 1.0


def tenants() -> list[int]:
    """Whose each message is, in the order of publishing; the k-th tenant has the k-th part of the load of the first."""
    chosen = random.Random(1).choices(  # noqa: S311
        range(ZIPF), weights=[1 / (k + 1) for k in range(ZIPF)], k=MESSAGES
    )
    return list(chosen)


def claimed(*, fair: bool) -> list[int]:
    """The tenants in the order in which their messages are claimed."""
    order = tenants()
    with TemporaryCluster() as cluster, ExitStack() as stack:
        url = cluster.url()
        migrate(url)
        columns = "now(), hashtextextended(tenant::text, 0)" if fair else "NULL, NULL"
        with closing(psycopg2.connect(url)) as connection, connection, connection.cursor() as cursor:
            cursor.execute("INSERT INTO kombu_queue (name, fair) VALUES ('q', %s) RETURNING id", [fair])
            (queue,) = cursor.fetchone()
            cursor.execute(
                "INSERT INTO kombu_message (id, queue_id, payload, available_at, flow_key)"
                f" SELECT number, %s, '{{}}', {columns} FROM unnest(%s) WITH ORDINALITY AS given (tenant, number)",
                [queue, order],
            )
        consumers = [TurnsConsumer(url, number, queue, places=PLACES) for number in range(1, CONSUMERS + 1)]
        for one in consumers:
            stack.enter_context(closing(one.session))
        found: list[int] = []
        for one in itertools.cycle(consumers):
            messages = one.claim(fair=fair, force=True)
            found += [order[message.id - 1] for message in messages]
            for message in messages:
                one.ack(message)
            if len(found) == MESSAGES:
                return found
    raise AssertionError("the cycle has no end")


def course(found: list[int]) -> list[float]:
    """Jain's index of each window, over the tenants that had messages when it began."""
    left, indexes = Counter(found), []
    for start in range(0, len(found), WINDOW):
        window = Counter(found[start : start + WINDOW])
        # A tenant that has too few for its share gets all it has.
        waiting = [tenant for tenant, count in left.items() if count >= WINDOW / max(1, len(left))]
        indexes.append(jain([window[tenant] for tenant in waiting]))
        left -= window
    return indexes


def main(file: Path) -> None:
    """Measure and draw."""
    import matplotlib  # not needed by who tests the figures

    matplotlib.use("Agg")
    from matplotlib import pyplot

    from benchmarks.plots import _STYLE

    pyplot.rcParams.update(_STYLE)
    figure, axis = pyplot.subplots(figsize=(7, 2.6))
    for name, fair, colour in (("fair queue", True, "#c2410c"), ("first in, first out", False, "#555555")):
        indexes = course(claimed(fair=fair))
        sys.stdout.write(f"{name}: {min(indexes):.2f} to {max(indexes):.2f}, mean {sum(indexes) / len(indexes):.3f}\n")
        places = [WINDOW * number / 1000 for number in range(1, len(indexes) + 1)]
        axis.plot(places, indexes, color=colour, linewidth=2, label=name)
    axis.set_ylim(0, 1.05)
    axis.set_xlabel("thousand messages claimed")
    axis.set_ylabel("Jain's index")
    axis.legend(frameon=False, loc="lower right")
    figure.savefig(file, metadata={"Date": None}, bbox_inches="tight")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
