"""What is told of a job, once each, and whom it has reached (0004_notify.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0004"
down_revision = "0003"

upgrade = upgrade_with(__file__)
