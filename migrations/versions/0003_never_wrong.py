"""Resuming runs, and a record of every move of the pointer (0003_never_wrong.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0003"
down_revision = "0002"

upgrade = upgrade_with(__file__)
