"""Find dead letters by their task, for `operations.state`."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611300330"
down_revision = "202611300300"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(10)


def downgrade() -> None:
    downgrade_package(9)
