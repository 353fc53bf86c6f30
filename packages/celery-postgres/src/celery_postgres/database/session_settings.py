"""The settings of every session."""

from __future__ import annotations

from celery_postgres.database import keepalive

#: The longest time of one statement, as PostgreSQL writes it, unless the address or an option sets another.
STATEMENT_TIMEOUT = "30s"

#: Plans must not depend on statistics: a table that was empty at the last analyze and now holds a million messages
#: would be read from end to end. So each statement has its generic plan, by index, in loops. Only the order of a join
#: is left to the planner: with dead rows that a long transaction keeps and no analyze counts, it turned 9,000 tasks/s
#: into 4. So no statement of ours joins a table that grows: it asks for the rows by `id = ANY (array)`, and `OFFSET 0`
#: or `IS TRUE` keep a subquery from becoming a join.
SETTINGS = {
    "application_name": "celery_postgres",
    "statement_timeout": STATEMENT_TIMEOUT,
    "plan_cache_mode": "force_generic_plan",
    "enable_seqscan": "off",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "jit": "off",
    **keepalive.SETTINGS,
}
