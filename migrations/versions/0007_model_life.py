"""The life of a model version: what is known of it, how its aliases move, how it ends (0007_model_life.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0007"
down_revision = "0006"

upgrade = upgrade_with(__file__)
