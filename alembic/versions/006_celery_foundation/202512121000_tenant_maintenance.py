"""What the maintenance tasks work on: customers' events, the tenants' policies, the audit.

The statements are in the two .sql files beside this one. The downgrade drops the tables with the tenants' data.
"""

from __future__ import annotations

from pathlib import Path

from alembic import op

revision = "202512121000"
down_revision = "202512120900"
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
