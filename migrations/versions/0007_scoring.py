"""Batch sizes by model and machine, and how each run was scored (0007_scoring.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0007"
down_revision = "0003"

upgrade = upgrade_with(__file__)
