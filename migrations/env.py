"""Alembic's environment: the tables of `app.models`, on SQLite (rebuilt in batches) and Postgres."""

from alembic import context
from sqlalchemy import create_engine, text

import app.models

url = context.config.get_main_option("sqlalchemy.url")
assert url is not None
engine = create_engine(url)
sqlite = engine.dialect.name == "sqlite"

with engine.connect() as connection:
    if not sqlite:
        connection.execute(text("SELECT pg_advisory_lock(782211)"))  # two hosts may migrate at once
    context.configure(
        connection=connection,
        target_metadata=app.models.metadata,
        render_as_batch=sqlite,
        compare_type=True,
        transactional_ddl=True,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()
    if not sqlite:
        connection.execute(text("SELECT pg_advisory_unlock(782211)"))
        connection.commit()
engine.dispose()
