"""The tables of the state machine and of the shell around it."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:

    op.create_table(
        "batch",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("root", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("members", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("lines", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("salts", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("chain_id", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.Column("commit_block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("opened_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("drawn_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seed", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("counted", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("results_due", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("record", sa.Text(), autoincrement=False, nullable=True),
        sa.Column("settled_block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("claimable_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("claimed_by", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("batch", schema=None) as batch_op:
        batch_op.create_index("ix_batch_chain_id", ["chain_id"], unique=False)
        batch_op.create_index("ix_batch_state", ["state"], unique=False)

    op.create_table(
        "cursor",
        sa.Column("id", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    op.create_table(
        "duty",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "fault",
        sa.Column("batch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("operator", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("segment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch", "job", "task", "node"),
    )
    with op.batch_alter_table("fault", schema=None) as batch_op:
        batch_op.create_index("ix_fault_job", ["job"], unique=False)
        batch_op.create_index("ix_fault_owner", ["owner"], unique=False)

    op.create_table(
        "job",
        sa.Column("id", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("manifest", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("requester", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("opened_block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("opened_hash", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("units", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("reward", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("audit_fee", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("verifier_fee", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("auditors_per_segment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("segments_per_audit", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("deadline", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("workload", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("workload_name", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("look_ahead", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("exact", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("tasks", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("result", sa.Text(), autoincrement=False, nullable=True),
        sa.Column("units_open", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("units_paid", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("closed_at", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("taken_block", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("gone", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("elsewhere", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("claimed_by", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("id"),
    )
    with op.batch_alter_table("job", schema=None) as batch_op:
        batch_op.create_index("ix_job_claimed_by", ["claimed_by"], unique=False)
        batch_op.create_index("ix_job_state", ["state"], unique=False)

    op.create_table(
        "known",
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("leader", sa.BigInteger(), nullable=False),
        sa.Column("commit_block", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.Text(), nullable=False),
        sa.Column("drawn", sa.Boolean(), nullable=False),
        sa.Column("settled", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("batch"),
    )
    op.create_table(
        "log",
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seq", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("at", sa.Double(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("text", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("loss", sa.Double(), autoincrement=False, nullable=True),
        sa.Column("step", sa.BigInteger(), autoincrement=False, nullable=True),
        sa.PrimaryKeyConstraint("job", "seq"),
    )
    op.create_table(
        "process",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("endpoint", sa.Text(), nullable=False),
        sa.Column("seen_at", sa.Double(), nullable=False),
        sa.Column("rows_from", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("name"),
    )
    op.create_table(
        "seat",
        sa.Column("batch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("segment", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("auditor", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("tries", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("seal", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("signature", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("opening", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("answer", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("copied", sa.Boolean(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch", "job", "task", "segment", "auditor"),
    )
    with op.batch_alter_table("seat", schema=None) as batch_op:
        batch_op.create_index("ix_seat_auditor", ["auditor"], unique=False)

    op.create_table(
        "segment",
        sa.Column("batch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("auditors", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("seats", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("claimed", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("worker", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("workload", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("exact", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("decoy", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("weigh", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("looked", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("verdict", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("kind", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("unvoted", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("reason", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("batch", "job", "task", "index"),
    )
    with op.batch_alter_table("segment", schema=None) as batch_op:
        batch_op.create_index("ix_segment_job", ["job"], unique=False)

    op.create_table(
        "signed",
        sa.Column("batch", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("record", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("batch", "attempt"),
    )
    op.create_table(
        "task",
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("index", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("spec", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("reward", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("undecided", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("barred", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("lost_by", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("refused_by", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("job", "index"),
    )
    op.create_table(
        "transaction",
        sa.Column("nonce", sa.BigInteger(), nullable=False),
        sa.Column("subject", sa.Text(), nullable=False),
        sa.Column("to", sa.Text(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.Column("raw", sa.LargeBinary(), nullable=False),
        sa.Column("sent_at", sa.Double(), nullable=False),
        sa.Column("mined_block", sa.BigInteger(), nullable=True),
        sa.Column("state", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("nonce"),
    )
    with op.batch_alter_table("transaction", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_transaction_state"), ["state"], unique=False)
        batch_op.create_index(batch_op.f("ix_transaction_subject"), ["subject"], unique=False)

    op.create_table(
        "work",
        sa.Column("job", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("task", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("attempt", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("node", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("state", sa.Text(), autoincrement=False, nullable=False),
        sa.Column("inputs", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("submission", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("leaf", sa.LargeBinary(), autoincrement=False, nullable=False),
        sa.Column("result", sa.Text(), autoincrement=False, nullable=True),
        sa.Column("promised_until", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("batch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("decoy", sa.Boolean(), autoincrement=False, nullable=False),
        sa.Column("decoy_batch", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("outcome", sa.Text(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("job", "task", "attempt"),
    )
    with op.batch_alter_table("work", schema=None) as batch_op:
        batch_op.create_index("ix_work_batch", ["batch"], unique=False)
        batch_op.create_index("ix_work_node", ["node"], unique=False)
        batch_op.create_index("ix_work_state", ["state"], unique=False)
