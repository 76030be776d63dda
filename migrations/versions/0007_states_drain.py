"""states are checked by the database; workers can be drained"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

STATE = "state IN ('queued', 'running', 'paused', 'finished', 'failed', 'canceled')"
DRAIN = "drain IN ('', 'finish', 'now')"


def upgrade() -> None:
    _forget_halves()
    with op.batch_alter_table("run") as batch:
        batch.create_check_constraint(op.f("ck_run_state"), STATE)
    with op.batch_alter_table("worker") as batch:
        batch.add_column(sa.Column("drain", sa.String(length=16), server_default="", nullable=False))
        batch.add_column(sa.Column("drain_by", sa.String(length=200), server_default="", nullable=False))
        batch.create_check_constraint(op.f("ck_worker_drain"), DRAIN)


def downgrade() -> None:
    _forget_halves()
    with op.batch_alter_table("worker") as batch:
        batch.drop_constraint(op.f("ck_worker_drain"), type_="check")
        batch.drop_column("drain_by")
        batch.drop_column("drain")
    with op.batch_alter_table("run") as batch:
        batch.drop_constraint(op.f("ck_run_state"), type_="check")


def _forget_halves() -> None:
    """SQLite rebuilds both tables; one that was interrupted has left its copy behind."""
    if op.get_bind().dialect.name == "sqlite":
        op.execute("DROP TABLE IF EXISTS _alembic_tmp_run")
        op.execute("DROP TABLE IF EXISTS _alembic_tmp_worker")
