"""Let the task that replaces another decide how long the key is held."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301900"
down_revision = "202611301730"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(21)


def downgrade() -> None:
    downgrade_package(20)
