"""The database's history: Alembic revisions, each a plain and reviewed SQL file."""
