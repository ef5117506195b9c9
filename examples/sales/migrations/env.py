"""Runs the migrations of the table of leads: `alembic upgrade head`."""

from alembic import context

from sales.models import Base, engine

if context.is_offline_mode():
    context.configure(url=engine().url, target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()
else:
    with engine().connect() as connection:
        context.configure(connection=connection, target_metadata=Base.metadata)
        with context.begin_transaction():
            context.run_migrations()
