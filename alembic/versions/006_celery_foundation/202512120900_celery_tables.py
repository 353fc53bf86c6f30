"""The tables of stock Kombu and Celery: broker, results.

Shapes, names, defaults and sequences are those that Kombu 5.6.2 and Celery 5.6.3 make for themselves on PostgreSQL
(`metadata.create_all`); a test compares them.

Upgrade
    makes what is missing and adopts what a stock Celery has already made: rows stay, sequences keep their place (one
    that is behind its table is moved forward), missing columns, indexes, constraints and sequences are added. Wider
    types (bigint for integer, a longer varchar, text) are kept. What cannot be adopted (another column type) is one
    error, and nothing has changed. The role `app_user`, if there is one, is granted what a worker needs on whatever
    it does not own.
    A missing index on a large adopted table is built under a lock that stops its writers; to avoid that, first make
    it by hand with CREATE INDEX CONCURRENTLY under the stock name, and it is adopted too.

Downgrade
    drops the tables and sequences that this migration made, with the results and the delivered messages in them. It
    refuses while undelivered messages wait in them, unless told `alembic -x discard-messages downgrade …`. Adopted
    tables stay as they are: they were there before, and what was added to them is stock's own.
    Which are which is written in the comment of each table and sequence.
"""

from __future__ import annotations

from alembic import context, op
from alembic.util import CommandError
from sqlalchemy import (
    Boolean,
    Column,
    Connection,
    DateTime,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Sequence,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    func,
    inspect,
    select,
    text,
)
from sqlalchemy.engine import Inspector
from sqlalchemy.schema import (
    AddConstraint,
    CreateIndex,
    CreateSequence,
    CreateTable,
    DropSequence,
    DropTable,
    SetTableComment,
)
from sqlalchemy.types import TypeEngine

revision = "202512120900"
down_revision = None
branch_labels = None
depends_on = None

MARK = "made by migration 202512120900"
SCHEMA = "public"
metadata = MetaData(schema=SCHEMA)

kombu_queue = Table(
    "kombu_queue",
    metadata,
    Column("id", Integer, Sequence("queue_id_sequence", metadata=metadata), primary_key=True),
    Column("name", String(200)),
    UniqueConstraint("name", name="kombu_queue_name_key"),
)
kombu_message = Table(
    "kombu_message",
    metadata,
    Column("id", Integer, Sequence("message_id_sequence", metadata=metadata), primary_key=True),
    Column("visible", Boolean),
    Column("timestamp", DateTime),
    Column("payload", Text, nullable=False),
    Column("version", SmallInteger, nullable=False),
    Column("queue_id", Integer),
    ForeignKeyConstraint(["queue_id"], [kombu_queue.c.id], name="FK_kombu_message_queue"),
    Index("ix_kombu_message_visible", "visible"),
    Index("ix_kombu_message_timestamp", "timestamp"),
    Index("ix_kombu_message_timestamp_id", "timestamp", "id"),
)
celery_taskmeta = Table(
    "celery_taskmeta",
    metadata,
    Column("id", Integer, Sequence("task_id_sequence", metadata=metadata), primary_key=True),
    Column("task_id", String(155)),
    Column("status", String(50)),
    Column("result", LargeBinary),
    Column("date_done", DateTime),
    Column("traceback", Text),
    Column("name", String(155)),
    Column("args", LargeBinary),
    Column("kwargs", LargeBinary),
    Column("worker", String(155)),
    Column("retries", Integer),
    Column("queue", String(155)),
    UniqueConstraint("task_id", name="celery_taskmeta_task_id_key"),
    Index("ix_celery_taskmeta_date_done", "date_done"),
)
celery_tasksetmeta = Table(
    "celery_tasksetmeta",
    metadata,
    Column("id", Integer, Sequence("taskset_id_sequence", metadata=metadata), primary_key=True),
    Column("taskset_id", String(155)),
    Column("result", LargeBinary),
    Column("date_done", DateTime),
    UniqueConstraint("taskset_id", name="celery_tasksetmeta_taskset_id_key"),
    Index("ix_celery_tasksetmeta_date_done", "date_done"),
)
TABLES = (kombu_queue, kombu_message, celery_taskmeta, celery_tasksetmeta)

#: Never backwards: ids that were given once stay given.
ADVANCE = text(
    "SELECT setval(CAST(:sequence AS regclass), :newest)"
    " WHERE coalesce(pg_sequence_last_value(CAST(:sequence AS regclass)), 0) < :newest"
)
WAITING = text("SELECT count(*) FROM public.kombu_message WHERE visible")
#: What a worker under app_user needs; nothing where app_user is the owner or has it already, because only an owner
#: may grant, and the migrating role need not own what it adopts.
GRANT_TO_APP_USER = text("""
DO $$
DECLARE
    one record;
BEGIN
    -- By name, which finds nothing where there is no such role: 'app_user'::regrole would be an error.
    FOR one IN
        SELECT c.relname AS name, c.relkind AS kind
        FROM pg_class AS c
        JOIN pg_roles AS r ON r.rolname = 'app_user' AND r.oid <> c.relowner
        WHERE c.relnamespace = 'public'::regnamespace
          AND c.relname IN (
              'kombu_queue', 'kombu_message', 'celery_taskmeta', 'celery_tasksetmeta', 'alembic_version',
              'queue_id_sequence', 'message_id_sequence', 'task_id_sequence', 'taskset_id_sequence'
          )
    LOOP
        IF one.kind = 'S' THEN
            IF NOT has_sequence_privilege('app_user', format('public.%I', one.name), 'USAGE') THEN
                EXECUTE format('GRANT USAGE, SELECT ON SEQUENCE public.%I TO app_user', one.name);
            END IF;
        ELSIF one.name = 'alembic_version' THEN
            -- A worker reports itself ready only when the schema is the one it knows.
            EXECUTE 'GRANT SELECT ON TABLE public.alembic_version TO app_user';
        ELSIF NOT (
            has_table_privilege('app_user', format('public.%I', one.name), 'SELECT')
            AND has_table_privilege('app_user', format('public.%I', one.name), 'INSERT')
            AND has_table_privilege('app_user', format('public.%I', one.name), 'UPDATE')
            AND has_table_privilege('app_user', format('public.%I', one.name), 'DELETE')
        ) THEN
            EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE public.%I TO app_user', one.name);
        END IF;
    END LOOP;
END
$$
""")


def upgrade() -> None:
    bind = op.get_bind()
    there = [table for table in TABLES if inspect(bind).has_table(table.name, schema=SCHEMA)]
    problems = [problem for table in there for problem in _misfits(inspect(bind), table)]
    if problems:
        raise CommandError("these tables are not stock Celery's and cannot be adopted: " + "; ".join(problems))
    for table in TABLES:
        bind.execute(CreateSequence(_sequence(table), if_not_exists=True))
        if table in there:
            _complete(bind, table)
            _advance_sequence(bind, table)
        else:
            _create(bind, table)
    bind.execute(GRANT_TO_APP_USER)


def downgrade() -> None:
    bind = op.get_bind()
    made = [table for table in TABLES if _is_ours(inspect(bind), table)]
    if kombu_message in made and "discard-messages" not in context.get_x_argument(as_dictionary=True):
        waiting = bind.execute(WAITING).scalar_one()
        if waiting:
            raise CommandError(
                f"{waiting} undelivered messages are in kombu_message: let a worker take them, or throw them away "
                "with `alembic -x discard-messages downgrade …`"
            )
    if kombu_message not in made and inspect(bind).has_table("kombu_message", schema=SCHEMA):
        made = [table for table in made if table is not kombu_queue]  # an adopted table refers to it
    for table in reversed(made):
        bind.execute(DropTable(table))
        bind.execute(DropSequence(_sequence(table), if_exists=True))


def _create(bind: Connection, table: Table) -> None:
    table.comment = MARK
    bind.execute(CreateTable(table))
    bind.execute(SetTableComment(table))
    for index in _indexes(table):
        bind.execute(CreateIndex(index))


def _complete(bind: Connection, table: Table) -> None:
    """Add to an existing table what stock has and it has not."""
    now = inspect(bind)
    columns = {column["name"] for column in now.get_columns(table.name, schema=SCHEMA)}
    for column in table.columns:
        if column.name not in columns:
            op.add_column(table.name, Column(column.name, column.type, nullable=True), schema=SCHEMA)
    if not now.get_pk_constraint(table.name, schema=SCHEMA)["constrained_columns"]:
        op.create_primary_key(f"{table.name}_pkey", table.name, ["id"], schema=SCHEMA)
    indexes = now.get_indexes(table.name, schema=SCHEMA)
    unique = [index["column_names"] for index in indexes if index["unique"]]
    for constraint in table.constraints:
        names = list(constraint.columns.keys()) if isinstance(constraint, UniqueConstraint) else []
        if names and names not in unique:
            bind.execute(AddConstraint(constraint))
    if table.foreign_key_constraints and not now.get_foreign_keys(table.name, schema=SCHEMA):
        for constraint in table.foreign_key_constraints:
            bind.execute(AddConstraint(constraint))
    # Not CREATE INDEX IF NOT EXISTS: even where there is nothing to do, that is the owner's alone.
    named = {index["name"] for index in indexes}
    for index in _indexes(table):
        if index.name not in named:
            bind.execute(CreateIndex(index))


def _advance_sequence(bind: Connection, table: Table) -> None:
    """Bring the table's sequence past the newest id, where it is new, or a restore left it behind."""
    newest = bind.execute(select(func.max(table.c.id))).scalar_one()
    if newest is not None:
        bind.execute(ADVANCE, {"sequence": f"{SCHEMA}.{_sequence(table).name}", "newest": newest})


def _misfits(now: Inspector, table: Table) -> list[str]:
    """Why stock Celery could not work with the existing table once its missing pieces were added."""
    have = {column["name"]: column for column in now.get_columns(table.name, schema=SCHEMA)}
    problems = []
    for column in table.columns:
        where = f"{table.name}.{column.name}"
        if column.name not in have:
            if not column.nullable:
                problems.append(f"{where} is missing")
            continue
        found = have.pop(column.name)
        if not _holds(found["type"], column.type):
            problems.append(f"{where} has the type {found['type']} instead of {column.type}")
        if column.nullable and not found["nullable"]:
            problems.append(f"{where} must allow NULL")
    problems += [
        f"{table.name}.{name}, unknown to Celery, is NOT NULL without a default"
        for name, column in have.items()
        if not column["nullable"] and column["default"] is None and not column.get("identity")
    ]
    indexes = {index["name"]: index for index in now.get_indexes(table.name, schema=SCHEMA)}
    problems += [
        f"the index {index.name} has other columns"
        for index in table.indexes
        if index.name in indexes
        and (indexes[index.name]["column_names"] != index.columns.keys() or indexes[index.name]["unique"])
    ]
    return problems


def _holds(found: TypeEngine[object], wanted: TypeEngine[object]) -> bool:
    """Whether every value of `wanted` fits into `found` and comes back as the same Python value."""
    if isinstance(wanted, String):
        return isinstance(found, String) and (
            found.length is None or (wanted.length is not None and found.length >= wanted.length)
        )
    if isinstance(wanted, SmallInteger):
        return isinstance(found, Integer)
    if isinstance(wanted, Integer):
        return isinstance(found, Integer) and not isinstance(found, SmallInteger)
    if isinstance(wanted, DateTime):
        return isinstance(found, DateTime) and not found.timezone
    return isinstance(found, type(wanted))


def _sequence(table: Table) -> Sequence:
    default = table.c.id.default
    assert isinstance(default, Sequence)  # noqa: S101
    return default


def _indexes(table: Table) -> list[Index]:
    return sorted(table.indexes, key=lambda index: str(index.name))


def _is_ours(now: Inspector, table: Table) -> bool:
    return now.has_table(table.name, schema=SCHEMA) and now.get_table_comment(table.name, schema=SCHEMA)["text"] == MARK
