"""What each role may do: everything in the catalogue, against a list of what was decided.

A new table, sequence or statement fails here until somebody has decided who may use it.
"""

from __future__ import annotations

import io
import re
from contextlib import closing
from typing import Any

import psycopg2
import pytest

from celery_postgres.console import tracebacks
from celery_postgres.database.rights import roles_script
from celery_postgres.database.statements import statements
from celery_postgres.operations import WORKER_SEQUENCES, WORKER_TABLES
from celery_postgres.readmodel import ReadModel, State, TaskFilter
from tests.roles.conftest import ROLES_SQL, Databases

pytestmark = pytest.mark.xdist_group("roles")

ROLES = {
    "celery_worker": "worker",
    "celery_producer": "producer",
    "celery_result_reader": "reader",
    "celery_monitor": "monitor",
    "celery_console": "console",
    "celery_operator": "operator",
}
ALL = "SELECT, INSERT, UPDATE, DELETE"
#: By table: who may do what, to which columns if not to all. `{}`: the owner alone.
TABLES: dict[str, dict[str, str]] = {
    "kombu_message": {
        "worker": ALL,
        "producer": "SELECT(available_at consumer_id expires_at queue_id visible), INSERT(available_at expires_at"
        " flow_key flow_later in_order payload priority queue_id task_id tenant_id)",
        "reader": "SELECT(id task_id visible)",
        "monitor": "SELECT(available_at consumer_id enqueued_at failures flow_key flow_later id priority queue_id"
        " visible)",
    },
    "kombu_queue": {
        "worker": ALL,
        "producer": "SELECT, INSERT(auto_delete expires_ms fair message_ttl_ms name)",
        "monitor": "SELECT",
    },
    "kombu_binding": {
        "worker": ALL,
        "producer": "SELECT, INSERT(exchange pattern queue_id routing_key type)",
    },
    "kombu_consumer": {"worker": ALL, "producer": "SELECT(id)", "monitor": "SELECT"},
    "kombu_subscription": {"worker": ALL, "producer": "SELECT", "monitor": "SELECT"},
    "kombu_dead_letter": {"worker": "SELECT, INSERT", "monitor": "SELECT(died_at queue)"},
    "kombu_stopped_task": {"worker": "SELECT", "monitor": "SELECT"},
    "kombu_limit": {
        "worker": "SELECT",
        "monitor": "SELECT(burst flow_key max_running per_second queue_id refuse weight)",
    },
    "kombu_throttle": {"worker": ALL, "monitor": "SELECT"},
    "kombu_lost_consumer": {"worker": "SELECT, INSERT, DELETE", "monitor": "SELECT"},
    "console_action": {
        "worker": "SELECT, INSERT(action actor conditions planned source subject), UPDATE(done ended_at outcome)"
    },
    "console_action_id_seq": {},
    "console_ended_session": {"worker": "SELECT, INSERT, DELETE"},
    "celery_beat_entry": {"worker": "SELECT, INSERT, UPDATE", "monitor": "SELECT"},
    "celery_beat": {"worker": ALL, "monitor": "SELECT"},
    "celery_taskmeta": {"worker": ALL, "reader": "SELECT", "monitor": "SELECT(date_done status)"},
    "celery_attempt": {"worker": "SELECT, INSERT, DELETE", "reader": "SELECT"},
    "celery_tasksetmeta": {"worker": ALL, "reader": "SELECT"},
    "celery_chord": {"worker": ALL, "monitor": "SELECT(added created_at done due_at id size)"},
    "celery_chord_part": {"worker": "SELECT, INSERT, DELETE"},
    "celery_waiter": {
        "worker": ALL,
        "reader": "INSERT(listener slot task_id)",
    },
    "celery_minute": {"worker": ALL, "monitor": "SELECT"},
    "celery_minute_sum": {"worker": ALL, "monitor": "SELECT"},
    "celery_hour": {"worker": ALL},
    "celery_depth": {"worker": ALL},
    "celery_postgres_migration": dict.fromkeys(ROLES.values(), "SELECT"),
    "queue_id_sequence": {"worker": "USAGE", "producer": "USAGE"},
    "message_id_sequence": {"worker": "USAGE", "producer": "USAGE"},
    "task_id_sequence": {"worker": "USAGE"},
    "taskset_id_sequence": {"worker": "USAGE"},
    "celery_listener_sequence": {"worker": "USAGE", "reader": "USAGE"},
    "celery_attempt_id_seq": {},
    "kombu_consumer_id_seq": {},
    "kombu_dead_letter_id_seq": {},
}
#: A console that looks reads the tables with payloads in views, and these as they are; another acts.
OF_CONSOLES: dict[str, tuple[str, str]] = {
    "kombu_queue": ("SELECT", "SELECT, UPDATE"),
    "kombu_message": ("", ALL),
    "kombu_dead_letter": ("", "SELECT, UPDATE(task_name), DELETE"),
    "kombu_consumer": ("SELECT", "SELECT, UPDATE, DELETE"),
    "kombu_subscription": ("SELECT", "SELECT"),
    "kombu_lost_consumer": ("SELECT", "SELECT, DELETE"),
    "kombu_stopped_task": ("SELECT", "SELECT, INSERT, DELETE"),
    "kombu_limit": ("SELECT", ALL),
    "kombu_throttle": ("SELECT", ALL),
    "celery_beat_entry": ("SELECT", "SELECT, UPDATE"),
    "celery_beat": ("SELECT", "SELECT"),
    "celery_minute": ("SELECT", "SELECT"),
    "celery_minute_sum": ("SELECT", "SELECT"),
    "celery_hour": ("SELECT", "SELECT"),
    "celery_depth": ("SELECT", "SELECT"),
    "celery_taskmeta": ("", "SELECT"),
    "celery_attempt": ("", "SELECT"),
    "celery_chord": ("SELECT(added created_at done due_at id size)", "SELECT"),
    "celery_chord_part": ("SELECT(chord_id position status task_id)", "SELECT"),
    "console_action": (
        "SELECT",
        "SELECT, INSERT(action actor conditions planned source subject), UPDATE(done ended_at outcome)",
    ),
    "console_ended_session": ("SELECT, INSERT, DELETE", "SELECT, INSERT, DELETE"),
    "message_id_sequence": ("", "USAGE"),
}
for _table, _rights in OF_CONSOLES.items():
    TABLES[_table] |= {role: may for role, may in zip(("console", "operator"), _rights, strict=True) if may}
#: By function: who may call it. All but the first five are the owner's work, whoever calls them.
FUNCTIONS: dict[str, set[str]] = {
    "kombu_refuse_stock()": set(),  # a trigger calls it, for everybody
    "kombu_name_dead_letter()": set(),  # so does this
    "kombu_sum_minutes()": set(),  # and this
    "kombu_refuse(text)": {"celery_monitor", "celery_producer", "celery_result_reader", "celery_worker"},
    "kombu_room_in_order(bigint,bigint,bigint)": {
        *("celery_monitor", "celery_producer", "celery_result_reader", "celery_worker"),
    },
    "kombu_room(bigint,bigint,bigint)": {"celery_monitor", "celery_producer", "celery_result_reader", "celery_worker"},
    "kombu_rooms(bigint,bigint[],bigint[])": {
        "celery_monitor",
        "celery_producer",
        "celery_result_reader",
        "celery_worker",
    },
    "kombu_rooms(bigint,bigint[],bigint[],double precision[])": {
        "celery_monitor",
        "celery_producer",
        "celery_result_reader",
        "celery_worker",
    },
    "kombu_limit_of(bigint,bigint)": {"celery_monitor", "celery_producer", "celery_result_reader", "celery_worker"},
    "kombu_catch_up(text)": {"celery_producer", "celery_worker"},
    "kombu_publish_unique(bigint,text,smallint,text,uuid,timestamp with time zone,timestamp with time zone,bigint,"
    "bigint,uuid,smallint,timestamp with time zone,text,text,double precision,double precision)": {
        "celery_producer",
        "celery_worker",
    },
    "kombu_admit(bigint[],text[])": {"celery_producer", "celery_worker"},
    "celery_size_chord(text,integer)": {"celery_producer", "celery_worker"},
    "celery_save_group(text,bytea,timestamp without time zone)": {"celery_producer", "celery_worker"},
    "celery_give_up_waiting(bigint,text[])": {"celery_result_reader", "celery_worker"},
}
OF_THE_APPLICATION: dict[str, dict[str, str]] = {
    "alembic_version": {"worker": "SELECT", "monitor": "SELECT"},
    "customer_event": {"worker": ALL},
    "customer_event_id_seq": {},
    "retention_policy": {"worker": ALL},
    "pii_policy": {"worker": ALL},
    "maintenance_audit": {"worker": "SELECT, INSERT"},
    "maintenance_audit_id_seq": {},
    "mv_maintenance_activity": {},
    "maintenance_activity": {"worker": "SELECT"},
    "api_key": {"worker": "SELECT, INSERT, UPDATE"},
    "task_submission": {"worker": "SELECT, INSERT, DELETE"},
}
DECIDED = {"plain": TABLES, "migrated": TABLES | OF_THE_APPLICATION}

PRIVILEGES = """
    SELECT c.relname, r.rolname, p.name,
        CASE c.relkind WHEN 'S' THEN has_sequence_privilege(r.oid, c.oid, p.name)
            ELSE has_table_privilege(r.oid, c.oid, p.name) END,
        ARRAY(
            SELECT a.attname::text FROM pg_attribute AS a
            WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND c.relkind <> 'S'
              AND p.name IN ('SELECT', 'INSERT', 'UPDATE', 'REFERENCES')
              AND has_column_privilege(r.oid, c.oid, a.attnum, p.name)
            ORDER BY a.attname
        )
    FROM pg_class AS c
    JOIN pg_roles AS r ON r.rolname = ANY (%(roles)s)
    JOIN unnest(
        ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE', 'REFERENCES', 'TRIGGER', 'USAGE']
    ) WITH ORDINALITY AS p (name, place)
      ON CASE c.relkind WHEN 'S' THEN p.name IN ('SELECT', 'UPDATE', 'USAGE') ELSE p.name <> 'USAGE' END
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
    ORDER BY c.relname, r.rolname, p.place
"""

STATEMENTS = set(statements())

#: What a worker never does: an operator uses the queue tool as the owner.
OF_OPERATORS = {
    *("delete_dead_letters", "requeue_dead_letters", "block_task", "unblock_task"),
    *("set_limit", "remove_limit"),
}
#: What only the owner of the tables does, because no role may delete what people did.
OF_OWNERS = {"drop_old_actions"}
#: What these read, others may read too; the first names no table of ours.
OF_EVERYBODY = {
    *("open_session", "monitor_begin", "broker_usable"),
    *("find_migrations", "migrated_to"),
    *("hold_key", "sees_held_key", "moves"),
    *(
        "view_health",
        "view_may_act",
        "may_drop_actions",
    ),  # of the console: what the server shows of sessions and of itself
    *("find_queue", "queues_by_fairness", "may_change_queues", "subscriptions", "orphaned_queues"),
    *("gone_consumers", "address", "wake"),
    *("wake_by_name", "view_fair_queues", "view_paused"),
}
OF_PRODUCERS = {
    *("publish", "publish_to_exchange", "publish_many", "routes", "address", "copy_message", "wake"),
    *("publish_within", "publish_many_within", "publish_to_exchange_within", "publish_unique", "publish_unique_within"),
    *("make_queue", "count_ready", "find_binding", "bind", "bindings"),
    *("look", "size_chord", "save_group", "catch_up", "queues_that_refuse", "admit", "admit_within"),
}
OF_READERS = {
    *("result", "results", "result_exists", "result_or_message"),
    *("restore_group", "await_results", "stop_waiting"),
    *("view_failed", "view_failed_end", "view_failed_of_tenant", "view_failed_of_tenant_end"),
    *("view_ended_of_tenant", "view_ended_of_tenant_end", "view_attempts_end"),
    *("view_attempts_of_tenant", "view_attempts_of_tenant_end"),
    *("view_attempts_of_task", "view_failures", "view_unregistered"),
    *("view_ended", "view_ended_end", "view_result_of_task", "view_sent_ended"),
    *("view_root_of", "view_canvas"),
}
#: What a client that publishes and waits may ask: where a task's message is.
OF_BOTH = {"task_states", "messages_of_task", "view_sent", "view_waits_of_tenant"}
OF_MONITORS = {
    *("session_lives", "queues_overview", "consumers_overview", "blocked_tasks", "overdue_chords"),
    *("queue_depths", "key_depths", "dead_letter_counts", "beat_runs"),
    *("newest_beat", "reported_runs", "view_minutes", "view_outcomes", "view_counts"),
    *("counts_running", "queues_that_count_running", "counts_of_key", "queues_that_refuse", "keyed_though_unfair"),
    *("view_queues", "view_dead_by_queue", "view_messages_end", "view_schedules", "view_lost_consumers", "view_beats"),
    *("view_oldest_of_key", "view_workers"),
}


def privileges(databases: Databases, name: str) -> dict[str, dict[str, str]]:
    with closing(psycopg2.connect(databases.superuser_url(name))) as connection, connection.cursor() as cursor:
        cursor.execute(PRIVILEGES, {"roles": list(ROLES)})
        found: dict[str, dict[str, str]] = {}
        for relation, role, privilege, whole, columns in cursor.fetchall():
            rights = found.setdefault(relation, {})
            if whole or columns:
                told = privilege if whole else f"{privilege}({' '.join(columns)})"
                rights[ROLES[role]] = ", ".join(filter(None, [rights.get(ROLES[role]), told]))
    return found


@pytest.mark.parametrize("name", ["migrated", "plain"])
def test_every_table_and_sequence_is_open_to_those_that_need_it(databases: Databases, name: str) -> None:
    assert privileges(databases, name) == DECIDED[name]


def test_the_package_has_the_same_roles_without_the_applications_tables() -> None:
    own = r"\n +-- The application's own tables\..*?-- End of the application's own tables\.\n"
    shared, count = re.subn(own, "", ROLES_SQL, flags=re.DOTALL)
    assert count == 1
    assert roles_script() == shared, "ops/postgres/roles.sql and the package's roles.sql differ: change both"
    assert not any(name in shared for name in OF_THE_APPLICATION)


def test_a_worker_asks_at_its_start_for_what_it_was_given(databases: Databases) -> None:
    asked = {table: ", ".join(rights) for table, rights in WORKER_TABLES.items()}
    asked |= dict.fromkeys(WORKER_SEQUENCES, "USAGE")
    of_workers = {table: rights["worker"] for table, rights in TABLES.items() if "worker" in rights}
    assert of_workers.pop("celery_postgres_migration") == "SELECT"  # read only to name a version in an error
    # Without the record of what people did, of who signed out, and of workers that were lost, tasks run all the same.
    del of_workers["console_action"], of_workers["console_ended_session"], of_workers["kombu_lost_consumer"]
    assert asked == of_workers


#: A COPY in the binary format of no row.
NO_ROW = b"PGCOPY\n\xff\r\n\0" + bytes(8) + b"\xff\xff"


def allowed(url: str, names: set[str]) -> set[str]:
    """Those of the named statements that a login may execute. PostgreSQL checks the rights for an EXPLAIN too."""
    may = set()
    with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
        connection.autocommit = True
        # As our sessions have it. A plan for these very values, which are null, may leave a table out, and its rights.
        cursor.execute("SET plan_cache_mode = force_generic_plan")
        for name in names:
            statement = statements()[name]
            try:
                if statement.copied:
                    cursor.copy_expert(statement.direct, io.BytesIO(NO_ROW))
                else:
                    cursor.execute(statement.prepare)
                    cursor.execute("EXPLAIN " + statement.execute, dict.fromkeys(statement.parameters))
            except (psycopg2.errors.InsufficientPrivilege, psycopg2.errors.FeatureNotSupported):  # the latter of a view
                continue
            may.add(name)
    return may


@pytest.mark.parametrize("name", ["migrated", "plain"])
@pytest.mark.parametrize(
    ("login", "may"),
    [
        ("runner", STATEMENTS - OF_OPERATORS - OF_OWNERS),
        ("sender", OF_PRODUCERS | OF_EVERYBODY),
        ("asker", OF_PRODUCERS | OF_READERS | OF_BOTH | OF_EVERYBODY),
        ("watcher", OF_MONITORS | OF_EVERYBODY),
    ],
)
def test_each_login_may_execute_the_statements_of_its_work(
    databases: Databases, name: str, login: str, may: set[str]
) -> None:
    assert allowed(databases.url(login, name), STATEMENTS) == may


VIEWS = {name for name in STATEMENTS if name.startswith("view_")} | {"status_of_task", "gone_consumers"}


@pytest.mark.parametrize("name", ["migrated", "plain"])
def test_a_console_that_looks_reads_every_view_and_one_that_acts_does_all_that_operators_do(
    databases: Databases, name: str
) -> None:
    of_looker, of_helper = (allowed(databases.url(login, name), STATEMENTS) for login in ("looker", "helper"))
    assert VIEWS - of_looker == set()
    of_fleets = {"drain_worker", "forget_worker", "enable_entry", "disable_entry", "request_entry"}
    assert (VIEWS | OF_OPERATORS | of_fleets | {"set_paused", "cancel_task", "begin_action"}) - of_helper == set()
    changes = {one for one in of_looker if re.search(r"\b(INSERT|UPDATE|DELETE)\b", statements()[one].direct)}
    # Four ask about rights, and do not use them; who signs out ends the session.
    allowed_changes = {"broker_usable", "may_change_queues", "view_may_act", "may_drop_actions", "end_session"}
    assert changes <= allowed_changes, "a console that looks changes nothing else"


SECRET = "x4111 1111"
TRACEBACK = f"""Traceback (most recent call last):
  File "/srv/mine/tasks.py", line 12, in pay
    charge(card)
  File "/srv/mine/bank.py", line 7, in charge
    raise Refused(card)
mine.bank.Refused: the card {SECRET} was refused
and {SECRET} again
  File "{SECRET}.py", line 3, in f
    x = "{SECRET}"
{SECRET.replace(" ", "_")}: again
"""
#: As a result has it that Celery stores as JSON.
RESULT = f'{{"exc_type": "Refused", "exc_message": ["{SECRET}"], "exc_module": "mine.bank"}}'


def test_a_console_that_looks_sees_names_sizes_and_calls_and_no_value(databases: Databases) -> None:
    payload = f'{{"body": "{SECRET}", "headers": {{"task": "mine.pay", "argsrepr": "{SECRET}"}}, "properties": {{}}}}'
    owner, looker = databases.url("deploy", "plain"), databases.url("looker", "plain")
    with closing(psycopg2.connect(owner)) as connection, connection, connection.cursor() as cursor:
        cursor.execute("INSERT INTO kombu_queue (name) VALUES ('mine')")
        cursor.execute(
            "INSERT INTO kombu_message (queue_id, payload, task_id) SELECT id, %s, 'waits' FROM kombu_queue", [payload]
        )
        cursor.execute(
            "INSERT INTO kombu_dead_letter (message_id, failures, queue, reason, payload, task_id)"
            " VALUES (1, 1, 'mine', 'r', %s, 'dead')",
            [payload],
        )
        cursor.execute(
            "INSERT INTO celery_taskmeta (id, task_id, status, date_done, name, traceback, result)"
            " VALUES (1, 'failed', 'FAILURE', timezone('UTC', now()), 'mine.pay', %s, %s)",
            [TRACEBACK, RESULT.encode()],
        )
        cursor.execute(
            "INSERT INTO celery_attempt (task_id, state, traceback) VALUES ('failed', 'FAILURE', %s)", [TRACEBACK]
        )
    model = ReadModel(looker)
    try:
        assert not model.may_act()
        shown = [
            *(model.overview(), model.queue("mine"), model.tasks(), model.dead_letters()),
            *(model.task(one) for one in ("waits", "dead", "failed")),
            *(model.payload(one) for one in ("waits", "dead")),
        ]
        assert SECRET not in repr(shown)
        assert {row.name for row in model.tasks().rows} == {"mine.pay"}
        (letter,) = model.tasks(TaskFilter(state=State.DEAD)).rows
        assert letter.bytes == len(payload)
        found = model.task("failed")
        assert found is not None
        assert found.row.error == "Refused"
        assert [frame.text for frame in tracebacks.frames(found.calls)] == [
            *("/srv/mine/tasks.py:12, in pay", "    charge(card)"),
            *("/srv/mine/bank.py:7, in charge", "    raise Refused(card)"),
        ]
    finally:
        model.close()
    everything = """
        SELECT view.relname, a.attname
        FROM pg_class AS view JOIN pg_attribute AS a ON a.attrelid = view.oid AND a.attnum > 0
        WHERE view.relnamespace = 'public_console'::regnamespace
    """
    for view, column in databases.run(looker, everything):
        assert SECRET not in str(databases.run(looker, f"SELECT {column} FROM public_console.{view}")), (view, column)  # noqa: S608
    for table in ("kombu_message", "kombu_dead_letter", "celery_taskmeta", "celery_attempt"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            databases.run(looker, f"SELECT * FROM public.{table}")  # noqa: S608
    for change in ("DELETE FROM kombu_dead_letter", "UPDATE kombu_queue SET paused = true", "TRUNCATE console_action"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            databases.run(looker, change)
    helper = databases.url("helper", "plain")
    with closing(ReadModel(helper)) as acting:
        assert acting.may_act()
    databases.run(helper, "INSERT INTO console_action (source, actor, action) VALUES ('console', 'ann', 'pause')")
    for change in ("UPDATE console_action SET actor = 'bob'", "DELETE FROM console_action"):
        with pytest.raises(psycopg2.errors.InsufficientPrivilege):
            databases.run(helper, change)
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(helper, "INSERT INTO console_action (source, actor, action, login) VALUES ('', '', '', 'bob')")


def test_the_owner_may_execute_all_of_them(databases: Databases) -> None:
    assert allowed(databases.url("deploy"), STATEMENTS) == STATEMENTS


def test_nobody_has_anything_beyond_the_database(databases: Databases) -> None:
    found = databases.run(
        databases.superuser_url(),
        """
        SELECT rolname FROM pg_roles
        WHERE rolname ~ '^celery_|^(deploy|runner|sender|asker|watcher)$'
          AND (rolsuper OR rolbypassrls OR rolcreaterole OR rolcreatedb OR rolreplication
               OR rolcanlogin AND rolname LIKE 'celery%'
               OR has_database_privilege(oid, current_database(), 'CREATE')
               OR has_schema_privilege(oid, 'public', 'CREATE') AND rolname NOT IN ('deploy', 'celery_migrator'))
        """,
    )
    assert found == []


@pytest.mark.parametrize("name", ["migrated", "plain"])
def test_functions_are_open_to_those_that_need_them(databases: Databases, name: str) -> None:
    """A function is everybody's until that is revoked; and one of the owner's rights names the schema that it means."""
    found = databases.run(
        databases.superuser_url(name),
        """
        SELECT p.oid::regprocedure::text, p.prosecdef, p.proconfig, ARRAY(
            SELECT r.rolname::text FROM pg_roles AS r
            WHERE r.rolname ~ '^celery_(worker|producer|result_reader|monitor)$'
              AND has_function_privilege(r.oid, p.oid, 'EXECUTE')
        )
        FROM pg_proc AS p WHERE p.pronamespace = 'public'::regnamespace
        """,
    )
    assert {signature: set(roles) for signature, _, _, roles in found} == FUNCTIONS  # type: ignore[call-overload]
    for signature, as_owner, settings, _ in found:
        assert (as_owner, settings) == (
            (False, None)
            if signature.startswith(
                ("kombu_refuse", "kombu_room", "kombu_limit_of", "kombu_name_dead_letter", "kombu_sum_minutes")
            )
            else (True, ["search_path=public, pg_temp"])
        )


@pytest.mark.parametrize("login", ["deploy", "runner", "sender", "watcher"])
@pytest.mark.parametrize("statement", ["CREATE ROLE more", "CREATE DATABASE more", "ALTER SYSTEM SET work_mem = '1MB'"])
def test_what_concerns_the_server_is_refused(databases: Databases, login: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url(login), statement)


@pytest.mark.parametrize("login", ["runner", "sender", "asker", "watcher"])
@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "ALTER TABLE kombu_message ADD COLUMN mine int",
        "DROP TABLE kombu_binding",
        "CREATE INDEX mine ON kombu_message (id)",
        "TRUNCATE kombu_message",
    ],
)
def test_ddl_is_the_migrators(databases: Databases, login: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        databases.run(databases.url(login), statement)


# -- the file itself


def test_it_takes_back_what_it_does_not_name(databases: Databases) -> None:
    before = privileges(databases, "plain")
    deploy = databases.url("deploy", "plain")
    databases.run(deploy, "GRANT SELECT, DELETE ON kombu_message TO celery_producer")
    databases.run(deploy, "GRANT SELECT (payload) ON kombu_message TO celery_monitor")
    assert privileges(databases, "plain") != before
    databases.run(deploy, ROLES_SQL)
    assert privileges(databases, "plain") == before


def test_who_does_not_own_the_tables_is_told_who_does(databases: Databases) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege) as caught:
        databases.run(databases.url("runner"), ROLES_SQL)
    assert caught.value.diag.message_primary == "alembic_version belongs to celery_migrator: run this as that role"


def test_a_migration_and_its_way_back_need_the_migrator_alone(
    databases: Databases, migrate: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from alembic import command
    from alembic.config import Config

    from environment.sources import CHECKOUT

    databases.make("twice")
    url = databases.url("deploy", "twice")
    monkeypatch.setenv("DATABASE_URL", url)
    config = Config(str(CHECKOUT / "alembic.ini"))
    command.upgrade(config, "head")
    databases.run(url, ROLES_SQL)
    command.downgrade(config, "base")
    command.upgrade(config, "head")
    databases.run(url, ROLES_SQL)
    assert privileges(databases, "twice") == DECIDED["migrated"]
    assert databases.run(url, "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'") == [
        ("celery_migrator",)
    ]


def test_tables_of_app_user_can_be_parted_from_it(databases: Databases, migrate: Any) -> None:
    """What the runbook says for a database whose worker was its owner."""
    name = "skeldir_validation"
    app_user = databases.cluster.tcp_url()
    migrate(app_user)
    databases.run(databases.superuser_url(name), ROLES_SQL)
    databases.run(app_user, ROLES_SQL)  # the owner may, without making roles
    databases.run(
        databases.superuser_url(name),
        "REASSIGN OWNED BY app_user TO celery_migrator",
        ROLES_SQL,
        "GRANT celery_worker TO app_user",
    )
    assert privileges(databases, name) == DECIDED["migrated"]
    assert allowed(app_user, STATEMENTS) == STATEMENTS - OF_OPERATORS - OF_OWNERS
