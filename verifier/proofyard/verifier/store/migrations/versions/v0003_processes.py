"""Processes that share a database."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "claim",
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("process", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("job"),
    )
    with op.batch_alter_table("claim", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_claim_process"), ["process"], unique=False)

    with op.batch_alter_table("process", schema=None) as batch_op:
        batch_op.add_column(sa.Column("token", sa.Text(), nullable=False, server_default=""))
        batch_op.add_column(sa.Column("nodes", sa.BigInteger(), nullable=False, server_default="0"))
