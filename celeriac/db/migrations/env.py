"""Runs migrations on the connection that `celeriac.db.migrate` hands over."""

from alembic import context

from celeriac.db.schema import metadata

connection = context.config.attributes["connection"]
context.configure(connection=connection, target_metadata=metadata, compare_server_default=True)
with context.begin_transaction():
    context.run_migrations()
