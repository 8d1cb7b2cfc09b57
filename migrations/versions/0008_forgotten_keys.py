"""Forgotten keys leave the caches of readers too (0008_forgotten_keys.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0008"
down_revision = "0007"

upgrade = upgrade_with(__file__)
