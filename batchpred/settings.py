"""The settings: the one place that reads the environment."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jobs.hub import Hub
    from jobs.mlflow_registry import MlflowServer
    from jobs.plan import Runtime


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    BATCHPRED_DATABASE_URL   the PostgreSQL to work on; where it is not set, an embedded one is started
    BATCHPRED_HOME           where the embedded server and cached models live
    MLFLOW_TRACKING_URI      the MLflow server that `mlflow:` models are in; and MLFLOW_TRACKING_TOKEN, or _USERNAME
                             and _PASSWORD, to log in there
    HF_ENDPOINT              the hub that `hf:` models are on, Hugging Face's if not set; HF_TOKEN logs in there
    """

    database_url: str | None
    home: Path
    environ: Mapping[str, str] = field(repr=False)

    @classmethod
    def read(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the settings; an empty value counts as not set."""
        home = environ.get("BATCHPRED_HOME")
        return cls(
            database_url=environ.get("BATCHPRED_DATABASE_URL") or None,
            home=Path(home).absolute() if home else _default_home(environ),
            environ=environ,
        )

    def database(self) -> Database:
        """Return the database to work on, at the schema this version needs.

        The embedded server is started and its schema brought up to date; a configured database is only looked
        at, because changing its schema is its owner's decision (`batchpred db upgrade`).
        Raises DatabaseAddressError, DatabaseUnreachableError, SchemaOutdatedError or what the embedded
        server raises.
        """
        from storage import upgrade

        database = self.unchecked_database()
        with database.connect(purpose="look at schema") as connection:
            if self.database_url is None and not upgrade.schema_status(connection).is_current:
                upgrade.upgrade(database)
            upgrade.require_current_schema(connection, database.place)
        return database

    def unchecked_database(self) -> Database:
        """Return the database, whatever its schema; starts the embedded server where none is configured."""
        if self.database_url is not None:
            return Database.at(self.database_url, named="BATCHPRED_DATABASE_URL")
        from storage import embedded

        return Database.at(embedded.ensure_running(self.home).url)

    def runtime(self) -> Runtime:
        """Return what a run needs from its surroundings."""
        from jobs.plan import Runtime

        return Runtime(
            self.database(), self.home / "models", mlflow=self.mlflow(), hub=self.hub(), environ=self.environ
        )

    def hub(self) -> Hub:
        """Return the hub of `hf:` models, under the names its own client reads."""
        from jobs.hub import Hub

        endpoint, token = (self.environ.get(f"HF_{each}", "").strip() for each in ("ENDPOINT", "TOKEN"))
        return Hub(endpoint, token) if endpoint else Hub(token=token)

    def mlflow(self) -> MlflowServer:
        """Return where MLflow is, under the names MLflow's own client reads."""
        from jobs.mlflow_registry import MlflowServer

        asked = ("URI", "TOKEN", "USERNAME", "PASSWORD")
        return MlflowServer(*(self.environ.get(f"MLFLOW_TRACKING_{each}", "") for each in asked))


def _default_home(environ: Mapping[str, str]) -> Path:
    # PostgreSQL refuses to run as root, and the user it then runs as cannot look into root's own home.
    if os.getuid() == 0:
        return Path("/var/lib/batchpred")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "batchpred"
    return Path(environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "batchpred"
