"""A share of the keys may be scored by a candidate, in the same run (0010_canary.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0010"
down_revision = "0009"

upgrade = upgrade_with(__file__)
