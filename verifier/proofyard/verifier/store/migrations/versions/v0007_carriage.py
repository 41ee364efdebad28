"""What relays have carried for this verifier's jobs, and what they are owed for it."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "carried",
        sa.Column("relay", sa.Text(), nullable=False),
        sa.Column("circuit", sa.LargeBinary(), nullable=False),
        sa.Column("day", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job", sa.BigInteger(), nullable=False),
        sa.Column("bytes", sa.BigInteger(), nullable=False),
        sa.Column("amount", sa.Text(), nullable=False),
        sa.Column("payment", sa.BigInteger(), nullable=False),
        sa.Column("paid", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("relay", "circuit", "day"),
    )
    for name in ("day", "job", "payment"):
        op.create_index(f"ix_carried_{name}", "carried", [name], unique=False)
