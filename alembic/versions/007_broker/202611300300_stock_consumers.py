"""Refuse consumers with stock Kombu, unless one has taken a message in the last seven days."""

from __future__ import annotations

from app.db.scripts import downgrade_package, upgrade_package

revision = "202611300300"
down_revision = "202611292300"
branch_labels = None
depends_on = None


def upgrade() -> None:
    upgrade_package(9)


def downgrade() -> None:
    downgrade_package(8)
