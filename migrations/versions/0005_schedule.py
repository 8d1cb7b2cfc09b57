"""The schedule: what was tried, what happened to a run, who cancelled it (0005_schedule.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0005"
down_revision = "0003"

upgrade = upgrade_with(__file__)
