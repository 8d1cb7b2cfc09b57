"""The read API: which runs are served, the keys of its readers, and the secret its cursors are signed with."""

from migrations.plain_sql import upgrade_with

revision = "0002"
down_revision = "0001"

upgrade = upgrade_with(__file__)
