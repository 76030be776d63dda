"""how many GPUs one run can have at a worker"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("worker", sa.Column("gpus", sa.Integer(), server_default="0", nullable=False))


def downgrade() -> None:
    op.drop_column("worker", "gpus")
