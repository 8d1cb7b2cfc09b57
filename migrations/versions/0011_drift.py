"""A run is compared with the reference profile of its model version (0011_drift.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0011"
down_revision = "0010"

upgrade = upgrade_with(__file__)
