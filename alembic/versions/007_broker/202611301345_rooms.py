"""Ask for the limits of many keys in one call."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301345"
down_revision = "202611301340"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(15)


def downgrade() -> None:
    downgrade_package(14)
