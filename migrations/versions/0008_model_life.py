"""The life of a model version: what is known of it, how its aliases move, how it ends (0008_model_life.sql)."""

from migrations.plain_sql import upgrade_with

revision = "0008"
down_revision = "0005"

upgrade = upgrade_with(__file__)
