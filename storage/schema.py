"""The tables of schema batchpred as they are declared: what the migrations, all applied, must amount to.

Statements are written in SQL (storage/sql/) and do not go through these objects; a test compares them with an
upgraded database column by column, key by key and index by index. Views and the per-run tables are made by
the migrations and by storage.predictions.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    Integer,
    Interval,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    Uuid,
    func,
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB

metadata = MetaData(schema="batchpred")

_TIME = DateTime(timezone=True)


def _now(name: str) -> Column[object]:
    return Column(name, _TIME, nullable=False, server_default=func.now())


def _required(name: str, type_: object, *constraints: object) -> Column[object]:
    return Column(name, type_, *constraints, nullable=False)  # type: ignore[arg-type]


model_files = Table(
    "model_files",
    metadata,
    Column("sha256", Text, primary_key=True),
    _required("size", BigInteger),
    _now("stored_at"),
    Column(
        "dropped_at", _TIME, comment="When the bytes were deleted, with the last version that needed them"
    ),
    comment="ONNX files, each once, known by the digest of their bytes",
)

model_pieces = Table(
    "model_pieces",
    metadata,
    Column("sha256", Text, ForeignKey("batchpred.model_files.sha256", ondelete="CASCADE"), primary_key=True),
    Column("piece", Integer, primary_key=True, autoincrement=False),
    _required("data", LargeBinary),
    comment="The bytes of the model files, in order, in pieces small enough to stream",
)

model_versions = Table(
    "model_versions",
    metadata,
    Column("name", Text, primary_key=True),
    Column("version", Integer, primary_key=True, autoincrement=False),
    _required("sha256", Text, ForeignKey("batchpred.model_files.sha256")),
    _required("signature", JSONB),
    _required("opset", JSONB),
    Column("notes", JSONB, nullable=False, server_default=text("'[]'")),
    _required("source", Text),
    _now("created_at"),
    Column("created_by", Text, nullable=False, server_default=text("SESSION_USER")),
    Column("metrics", JSONB, nullable=False, server_default=text("'{}'")),
    Column("tags", JSONB, nullable=False, server_default=text("'{}'")),
    Column("card", Text, comment="The model card, in Markdown"),
    Column(
        "profile",
        JSONB,
        comment="What features and scores looked like when the version was made: the reference of drift",
    ),
    Column("pushed_from", Text, comment="The user and machine it was pushed from"),
    Column("retired_at", _TIME),
    Column("retired_why", Text),
    Column(
        "deleted_at",
        _TIME,
        comment="A deleted version keeps its row: its number is never given again, and history stays whole",
    ),
    Index("model_versions_file", "name", "sha256", unique=True, postgresql_where=text("deleted_at IS NULL")),
    comment="Immutable model versions",
)

model_aliases = Table(
    "model_aliases",
    metadata,
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    _required("version", Integer),
    ForeignKeyConstraint(
        ["name", "version"], ["batchpred.model_versions.name", "batchpred.model_versions.version"]
    ),
    comment="Movable names for versions, as they stand now",
)

model_alias_moves = Table(
    "model_alias_moves",
    metadata,
    Column("move_id", BigInteger, Identity(always=True), primary_key=True),
    _required("name", Text),
    _required("alias", Text),
    Column("from_version", Integer),
    _required("to_version", Integer),
    _now("moved_at"),
    Column("moved_by", Text, nullable=False, server_default=text("SESSION_USER")),
    Column("kind", Text, nullable=False, server_default=text("'push'")),
    Column("why", Text),
    Index("model_alias_moves_alias", "name", "alias", "move_id"),
    ForeignKeyConstraint(
        ["name", "to_version"], ["batchpred.model_versions.name", "batchpred.model_versions.version"]
    ),
    comment='Every move of an alias, so that "which version was champion on 3 March" has an answer',
)

model_events = Table(
    "model_events",
    metadata,
    Column("event_id", BigInteger, Identity(always=True), primary_key=True),
    _required("name", Text),
    Column("version", Integer),
    _required("kind", Text),
    Column("details", JSONB, nullable=False, server_default=text("'{}'")),
    _now("happened_at"),
    Column("done_by", Text, nullable=False, server_default=text("SESSION_USER")),
    Index("model_events_name", "name", "event_id"),
    comment="What else became of models: gates held, releases, retirements, deletions",
)

canaries = Table(
    "canaries",
    metadata,
    Column("name", Text, primary_key=True),
    Column("alias", Text, primary_key=True),
    _required("version", Integer),
    _required("share", Double),
    _now("started_at"),
    Column("started_by", Text, nullable=False, server_default=text("SESSION_USER")),
    ForeignKeyConstraint(
        ["name", "version"], ["batchpred.model_versions.name", "batchpred.model_versions.version"]
    ),
    comment="Versions that score a share of the keys beside the one an alias points at, as they stand now",
)

jobs = Table(
    "jobs",
    metadata,
    Column("name", Text, primary_key=True),
    _required("description", Text),
    _required("mode", Text),
    _required("interval_unit", Text),
    _required("timezone", Text),
    Column("late_after", Interval),
    _required("key_columns", JSONB),
    _required("output_columns", JSONB),
    Column("views_sha256", Text),
    _now("updated_at"),
    Column(
        "forgotten_at",
        _TIME,
        comment="When a key of the job was last forgotten: what readers remember from before is not answered "
        "any more",
    ),
    Column(
        "has_canary",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether a run with a canary was ever published: then each prediction says its own version",
    ),
    comment="The jobs that have run here, as their latest run declared them",
)

definitions = Table(
    "definitions",
    metadata,
    Column("sha256", Text, primary_key=True),
    _required("job", Text),
    _required("definition", JSONB),
    _now("first_used_at"),
    comment="What decided a run's rows and outputs: query, parameters, key, features, outputs",
)

runs = Table(
    "runs",
    metadata,
    Column("run_id", BigInteger, Identity(always=True), primary_key=True),
    _required("job", Text),
    _required("interval_start", _TIME),
    _required("interval_end", _TIME),
    _required("as_of_date", Date),
    Column("status", Text, nullable=False, server_default=text("'running'")),
    _required("fence", BigInteger),
    _required("model_name", Text),
    Column("model_version", Integer),
    _required("model_sha256", Text),
    _required("definition_sha256", Text, ForeignKey("batchpred.definitions.sha256")),
    _required("provider", Text),
    Column("rows_read", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_scored", BigInteger, nullable=False, server_default=text("0")),
    Column("rows_quarantined", BigInteger, nullable=False, server_default=text("0")),
    Column("chunks", Integer, nullable=False, server_default=text("0")),
    Column("error", Text),
    _required("runner", Text),
    _now("started_at"),
    Column("scored_at", _TIME),
    Column("published_at", _TIME),
    Column("finished_at", _TIME),
    Column("job_table", JSONB, comment="The columns of the run's table and what readers are told of the job"),
    Column(
        "scoring",
        JSONB,
        comment="How the run was scored: device, provider, fallback, batch size and why, seconds",
    ),
    Column(
        "is_backfill",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Whether batchpred backfill made the run",
    ),
    Column(
        "shadow_of",
        BigInteger,
        ForeignKey("batchpred.runs.run_id"),
        comment="The run whose rows this one scored with another model; readers never see it",
    ),
    Column(
        "canary_version",
        Integer,
        comment="The version of the same model that scored a share of the keys; NULL where one version scored all",
    ),
    Column("canary_sha256", Text),
    Column("canary_share", Double),
    Column("canary_scored", BigInteger, comment="Of rows_scored, those that it scored"),
    Column("canary_quarantined", BigInteger),
    Column(
        "drift",
        JSONB,
        comment="How far features and scores lie from the reference of the model version: "
        "the level, and every column",
    ),
    Index("runs_job_interval", "job", "interval_start"),
    Index("runs_shadow_of", "shadow_of", postgresql_where=text("shadow_of IS NOT NULL")),
    comment="Every execution of a job for an interval; storage/runs.py says what each status means",
)

batch_sizes = Table(
    "batch_sizes",
    metadata,
    Column("model_sha256", Text, primary_key=True),
    Column("provider", Text, primary_key=True),
    Column("machine", Text, primary_key=True),
    _required("batch_rows", Integer),
    _required("threads", Integer),
    _required("rows_per_second", Double),
    _now("measured_at"),
    comment="The batch size and threads that scored a model quickest on a machine; "
    "deleting a row has it measured again",
)

claims = Table(
    "claims",
    metadata,
    Column("job", Text, primary_key=True),
    Column("interval_start", _TIME, primary_key=True),
    _required("fence", BigInteger),
    Column("holder", JSONB),
    _required("lease_until", _TIME),
    Column("cancelled_by", Text, comment="Who asked the holder to stop; NULL while nobody has"),
    comment="Who may write for a job's interval: a lease with a fencing number that only grows",
)

chunks = Table(
    "chunks",
    metadata,
    Column("run_id", BigInteger, ForeignKey("batchpred.runs.run_id"), primary_key=True, autoincrement=False),
    Column("chunk", Integer, primary_key=True, autoincrement=False),
    _required("rows_read", BigInteger),
    _required("rows_scored", BigInteger),
    _required("rows_quarantined", BigInteger),
    _now("committed_at"),
    Column(
        "rows_sha256",
        Text,
        comment="Digest of the rows as they were read: a chunk counts as done only while the source still gives "
        "the same",
    ),
    Column("last_key", JSONB, comment="Key of the last row read: chunks are cut in the order of the key"),
    Column("canary_scored", BigInteger),
    Column("canary_quarantined", BigInteger),
    Column("drift_counts", JSONB, comment="How many of its rows fall into each bin of which reference"),
    comment="The chunks of a run whose rows are committed: written in the rows' own transaction",
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("quarantine_id", BigInteger, Identity(always=True), primary_key=True),
    _required("run_id", BigInteger, ForeignKey("batchpred.runs.run_id")),
    _required("chunk", Integer),
    _required("key", JSONB),
    _required("reason", Text),
    _required("features", JSONB),
    _now("quarantined_at"),
    Index("quarantine_run", "run_id"),
    comment="Rows that could not be scored, each with its key, the reason and the values it had",
)

published = Table(
    "published",
    metadata,
    Column("job", Text, ForeignKey("batchpred.jobs.name"), primary_key=True),
    Column("interval_start", _TIME, primary_key=True),
    _required("run_id", BigInteger, ForeignKey("batchpred.runs.run_id")),
    UniqueConstraint("run_id"),
    comment="The pointer: which run readers see for a job's interval. Publishing and rolling back move it",
)

publish_moves = Table(
    "publish_moves",
    metadata,
    Column("move_id", BigInteger, Identity(always=True), primary_key=True),
    _required("job", Text),
    _required("interval_start", _TIME),
    Column("from_run", BigInteger, ForeignKey("batchpred.runs.run_id")),
    Column("to_run", BigInteger, ForeignKey("batchpred.runs.run_id")),
    _required("kind", Text),
    Column("why", Text),
    _now("moved_at"),
    Column("moved_by", Text, nullable=False, server_default=text("SESSION_USER")),
    Index("publish_moves_slot", "job", "interval_start", "move_id"),
    comment="Every move of the pointer of a job's interval, "
    'so that "what did readers see on 3 March" has an answer',
)

schedules = Table(
    "schedules",
    metadata,
    Column("job", Text, primary_key=True),
    _required("interval_unit", Text),
    _required("timezone", Text),
    _required("first_seen_at", _TIME),
    comment="Since when each job has been scheduled with its present zone and length of interval: "
    "missed intervals count from there",
)

attempts = Table(
    "attempts",
    metadata,
    Column("job", Text, primary_key=True),
    Column("interval_start", _TIME, primary_key=True),
    Column("failures", Integer, nullable=False, server_default=text("0")),
    Column("cause", Text, comment="storage/attempts.py says which of them are tried again, and when"),
    Column("error", Text),
    Column(
        "fingerprint",
        Text,
        comment="Digest of job file, query and model at the last failure: with another one the interval starts "
        "afresh",
    ),
    Column("failed_at", _TIME),
    Column(
        "not_before",
        _TIME,
        comment="No scheduler tries before; NULL after a failure means: not until something changes",
    ),
    Column("waiting_since", _TIME),
    Column(
        "looked_back_at",
        _TIME,
        comment="When the rows of this published interval were last compared with its source",
    ),
    comment="What schedulers remember of an interval that is not published: failures, why, and when the next "
    "attempt may come",
)

run_events = Table(
    "run_events",
    metadata,
    Column("event_id", BigInteger, Identity(always=True), primary_key=True),
    _required("run_id", BigInteger, ForeignKey("batchpred.runs.run_id", ondelete="CASCADE")),
    Column("happened_at", _TIME, nullable=False, server_default=func.clock_timestamp()),
    _required("event", Text),
    Column("details", JSONB, nullable=False, server_default=text("'{}'")),
    Index("run_events_run", "run_id", "event_id"),
    comment="What happened to a run, the newest 200 of each: written by a trigger whenever its status moves, so in "
    "the same transaction",
)

api_keys = Table(
    "api_keys",
    metadata,
    Column("key_id", Text, primary_key=True),
    _required("sha256", LargeBinary),
    _required("name", Text),
    Column("jobs", ARRAY(Text), comment="The jobs the key may read; NULL for all of them"),
    Column("requests_per_second", Integer),
    Column("expires_at", _TIME),
    _now("created_at"),
    Column("created_by", Text, nullable=False, server_default=text("SESSION_USER")),
    Column("revoked_at", _TIME),
    UniqueConstraint("sha256"),
    comment="Who may read over HTTP: of each key only the digest is kept",
)

api_secrets = Table(
    "api_secrets",
    metadata,
    Column("purpose", Text, primary_key=True),
    _required("secret", Text),
    comment="What servers of the read API share: the secret that signs page cursors",
)

events = Table(
    "events",
    metadata,
    Column("event_id", BigInteger, Identity(always=True), primary_key=True),
    Column(
        "message_id",
        Uuid,
        nullable=False,
        server_default=func.gen_random_uuid(),
        comment="What receivers know the event by: the same on every attempt to deliver it",
    ),
    _required("job", Text),
    _required("kind", Text),
    _required("interval_start", _TIME),
    Column("run_id", BigInteger, ForeignKey("batchpred.runs.run_id")),
    Column(
        "seen_run",
        BigInteger,
        comment="The run readers saw of the interval then: a failure is over once they see another",
    ),
    Column("happened_at", _TIME, nullable=False, server_default=func.clock_timestamp()),
    Column(
        "over_at",
        _TIME,
        comment="When a failure, block or lateness was over; until then it is not told again",
    ),
    _required("message", JSONB),
    UniqueConstraint("message_id"),
    Index(
        "events_open_interval",
        "job",
        "interval_start",
        "kind",
        unique=True,
        postgresql_where=text("over_at IS NULL AND kind IN ('failed', 'blocked')"),
    ),
    Index("events_open_late", "job", unique=True, postgresql_where=text("over_at IS NULL AND kind = 'late'")),
    comment="What is told of a job: one row for each failure, block, lateness, recovery, "
    "and publish where asked for",
)

deliveries = Table(
    "deliveries",
    metadata,
    Column(
        "event_id", BigInteger, ForeignKey("batchpred.events.event_id", ondelete="CASCADE"), primary_key=True
    ),
    Column("target", Text, primary_key=True, comment="The name of the target in the job file's notify list"),
    Column("status", Text, nullable=False, server_default="pending"),
    Column("attempts", Integer, nullable=False, server_default=text("0")),
    Column(
        "next_attempt_at",
        _TIME,
        nullable=False,
        server_default=func.clock_timestamp(),
        comment="While one is under way: when another process may take it over",
    ),
    Column("delivered_at", _TIME),
    Column("error", Text),
    Index("deliveries_pending", "next_attempt_at", postgresql_where=text("status = 'pending'")),
    comment="Whom an event is for, and whether it got there; the address and its secret stay in the job file",
)
