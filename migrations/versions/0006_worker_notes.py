"""why a worker takes no run at the moment"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker", sa.Column("note", sa.String(length=500), server_default="", nullable=False))


def downgrade() -> None:
    op.drop_column("worker", "note")
