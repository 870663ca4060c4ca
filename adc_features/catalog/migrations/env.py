"""What Alembic runs for each command:
the migrations, on the connection that `open_catalog` holds.
"""

from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction():
    context.run_migrations()
