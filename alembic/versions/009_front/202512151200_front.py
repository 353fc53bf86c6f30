"""What the HTTP front needs: API keys, and which tenant submitted which task.

The statements are in the two .sql files beside this one. The downgrade drops the tables: every key is void then, and
nobody owns the tasks that were submitted over HTTP.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "202512151200"
down_revision = "202512141200"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _run(".up.sql")


def downgrade() -> None:
    _run(".down.sql")


def _run(suffix: str) -> None:
    statements = Path(__file__).with_suffix(suffix).read_text(encoding="utf-8")
    # As one string without parameters: a % stays a %.
    op.get_bind().exec_driver_sql(statements, execution_options={"no_parameters": True})
