"""what networks are, for pre-flights; what a slot of a worker has"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "anatomy",
        sa.Column("key", sa.String(length=64), nullable=False),
        sa.Column("question", sa.JSON(), nullable=False),
        sa.Column("answer", sa.JSON(), nullable=True),
        sa.Column("asked_at", sa.Float(), nullable=False),
        sa.Column("taken_at", sa.Float(), nullable=True),
        sa.PrimaryKeyConstraint("key", name=op.f("pk_anatomy")),
    )
    op.create_index(op.f("ix_anatomy_asked_at"), "anatomy", ["asked_at"])
    op.add_column("worker", sa.Column("capacity", sa.JSON(), server_default="{}", nullable=False))


def downgrade() -> None:
    op.drop_column("worker", "capacity")
    op.drop_index(op.f("ix_anatomy_asked_at"), table_name="anatomy")
    op.drop_table("anatomy")
