"""Read views from sums and from an index of failures."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611301730"
down_revision = "202611301440"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(20)


def downgrade() -> None:
    downgrade_package(19)
