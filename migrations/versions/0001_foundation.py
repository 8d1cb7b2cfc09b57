"""The foundation: registry, ledger and what readers are shown (0001_foundation.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0001"
down_revision = None

upgrade = upgrade_with(__file__)
