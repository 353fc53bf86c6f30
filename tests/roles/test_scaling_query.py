"""The query by which KEDA adds pods: what it counts, and that the monitor's rights suffice."""

from __future__ import annotations

import pytest

from celery_postgres.operations import connect
from environment.sources import CHECKOUT
from tests.roles.conftest import Databases

pytestmark = pytest.mark.xdist_group("roles")

QUERY = (CHECKOUT / "ops/helm/celery-postgres/files/oldest-waiting.sql").read_text()
#: Of `mail`: a future task, one that is due since 40 s, and untimed ones of two priorities. Of `news`: one of 300 s.
MESSAGES = """
INSERT INTO kombu_message (id, visible, payload, version, queue_id, priority, enqueued_at, available_at)
SELECT nextval('message_id_sequence'), true, '{}', 1, queue.id, row.priority, now() - row.age, now() + row.due
FROM (VALUES
    ('mail', 0, interval '900 s', interval '1 hour'),
    ('mail', 0, interval '900 s', interval '-40 s'),
    ('mail', 9, interval '20 s', NULL),
    ('mail', 3, interval '90 s', NULL),
    ('news', 0, interval '300 s', NULL)
) AS row (queue, priority, age, due)
JOIN kombu_queue AS queue ON queue.name = row.queue
"""


def ask(databases: Databases, queues: str) -> float:
    """The age that KEDA gets, as the login that needs the least."""
    ((age,),) = databases.run(databases.url("watcher", "plain"), QUERY.replace("QUEUES", queues))
    assert isinstance(age, float)
    return age


def test_it_is_the_age_of_the_oldest_ready_message_as_the_queue_tool_shows_it(databases: Databases) -> None:
    superuser = databases.superuser_url("plain")
    assert ask(databases, "'mail'") == 0, "a queue that nobody has declared yet"
    databases.run(superuser, "INSERT INTO kombu_queue (id, name) SELECT nextval('queue_id_sequence'), 'mail'")
    databases.run(superuser, "INSERT INTO kombu_queue (id, name) SELECT nextval('queue_id_sequence'), 'news'")
    assert ask(databases, "'mail'") == 0
    databases.run(superuser, MESSAGES)
    assert 90 <= ask(databases, "'mail'") < 120
    assert 300 <= ask(databases, "'mail', 'news'") < 330
    with connect(superuser) as operator:
        shown = {each.queue: each.oldest_s or 0 for each in operator.queues()}
    for queue in ("mail", "news"):
        assert abs(ask(databases, f"'{queue}'") - shown[queue]) < 10
    databases.run(superuser, "DELETE FROM kombu_message WHERE available_at IS NULL")
    assert 40 <= ask(databases, "'mail'") < 70
