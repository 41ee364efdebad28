"""What Alembic runs: the versions over the connection that it was given."""

from alembic import context

from proofyard.verifier.store.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    render_as_batch=True,
    compare_type=True,
)
with context.begin_transaction():
    context.run_migrations()
