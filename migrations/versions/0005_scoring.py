"""Batch sizes by model and machine, and how each run was scored (0005_scoring.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0005"
down_revision = "0004"

upgrade = upgrade_with(__file__)
