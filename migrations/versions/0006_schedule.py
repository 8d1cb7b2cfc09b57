"""The schedule: what was tried, what happened to a run, who cancelled it (0006_schedule.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0006"
down_revision = "0005"

upgrade = upgrade_with(__file__)
