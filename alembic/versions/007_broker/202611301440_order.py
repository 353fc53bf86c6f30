"""Keep the order of a key."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301440"
down_revision = "202611301435"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(19)


def downgrade() -> None:
    downgrade_package(18)
