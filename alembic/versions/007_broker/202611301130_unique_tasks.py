"""Let one task of a unique key wait, and no second."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301130"
down_revision = "202611301030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(12)


def downgrade() -> None:
    downgrade_package(11)
