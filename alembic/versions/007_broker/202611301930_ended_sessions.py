"""Keep the sessions of the console that were ended by signing out."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301930"
down_revision = "202611301900"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(22)


def downgrade() -> None:
    downgrade_package(21)
