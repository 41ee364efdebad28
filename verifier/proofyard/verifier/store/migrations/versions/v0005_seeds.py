"""What was signed is kept by the seed of its draw as well."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # A table's key cannot be changed in SQLite: it is made anew. Rows are few, one for each batch that was signed.
    rows = op.get_bind().execute(sa.text("SELECT batch, attempt, digest, record FROM signed")).mappings().all()
    op.drop_table("signed")
    signed = op.create_table(
        "signed",
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("seed", sa.LargeBinary(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch", "attempt", "seed"),
    )
    op.bulk_insert(signed, [{**row, "seed": b""} for row in rows])
