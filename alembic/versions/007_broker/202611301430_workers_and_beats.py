"""Record what workers and beats report of themselves."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301430"
down_revision = "202611301355"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(17)


def downgrade() -> None:
    downgrade_package(16)
