"""A candidate may score beside a run, into a hidden run of its own (0009_shadow.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0009"
down_revision = "0008"

upgrade = upgrade_with(__file__)
