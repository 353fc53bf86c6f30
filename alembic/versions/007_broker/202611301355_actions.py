"""Record what people do to the broker, and lost workers."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301355"
down_revision = "202611301345"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(16)


def downgrade() -> None:
    downgrade_package(15)
