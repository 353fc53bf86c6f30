"""Count what runs of a key from the oldest that can still run, and name the scope of a refused rate."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611302200"
down_revision = "202611301930"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(23)


def downgrade() -> None:
    downgrade_package(22)
