"""What a run will do, known and checked before a row is read: interval, model, columns, tables."""

from __future__ import annotations

from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from jobs.drift import reference_of
from jobs.errors import ModelError
from jobs.gatekeeper import examine
from jobs.hub import Hub
from jobs.job_source import SourceColumnsError, key_columns, nearest, source_of
from jobs.jobfile import definition_digest
from jobs.jobspec.output import parse_output_ref
from jobs.mlflow_registry import MlflowServer
from jobs.model import Model, ScoringPlan, check_columns
from jobs.model_cache import ModelCache
from jobs.remote_models import fetch_remote, is_remote, shown
from jobs.signing import read_signature, sign_and_push, trust_in
from jobs.summary import batches_for
from jobs.sums import listed
from jobs.transform import Transform, load_transform
from storage import model_life, predictions, registry
from storage.job_table import Column, JobTable
from storage.parameters import bind_named
from storage.runs import Pin, Slot
from storage.sources import KEY_KINDS, SourceColumn
from storage.staged import Check, try_out

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from jobs.batch_size import Batches
    from jobs.canary import Beside
    from jobs.drift_counts import Reference
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from jobs.signature import OutputColumn
    from storage.database import Connection, Database
    from storage.sources import Source

_KEY_TYPES = {"integer": "bigint", "text": "text", "uuid": "text", "date": "date"}


@dataclass(frozen=True)
class Runtime:
    """What a run needs from its surroundings: the database, and the folder in which models are cached."""

    database: Database
    model_cache: Path
    threads: int | None = None
    mlflow: MlflowServer = field(default_factory=MlflowServer)
    hub: Hub = field(default_factory=Hub)
    environ: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class ResolvedModel:
    """A model reference, resolved once: the identity every prediction of the run will carry, and the model."""

    name: str
    version: int | None
    sha256: str
    model: Model
    notes: tuple[str, ...] = ()
    alias: str | None = None
    registered: registry.ModelVersion | None = None

    def __str__(self) -> str:
        number = f"/{self.version}" if self.version is not None else ""
        return f"{self.name}{number} ({self.sha256[:12]})"


@dataclass(frozen=True)
class Plan:
    """Everything decided about a run of one job for one interval."""

    job_file: JobFile
    interval: Interval
    source: Source
    key: tuple[SourceColumn, ...]
    features: tuple[SourceColumn, ...]
    model: ResolvedModel
    scoring: ScoringPlan
    table: JobTable
    warnings: tuple[str, ...]
    batches: Batches  # what learns while the run goes on, like
    transform: Transform | None = None  # this, of its cost
    checks: tuple[Check, ...] = ()
    drift: Reference | None = None
    canary: Beside | None = None

    @property
    def slot(self) -> Slot:
        """What the run claims."""
        interval = self.interval
        return Slot(self.job_file.job.name, interval.start, interval.end, interval.date)

    @property
    def pin(self) -> Pin:
        """What the run is pinned to."""
        model, beside = self.model, self.canary
        return Pin(
            model.name,
            model.version,
            model.sha256,
            definition_digest(self.definition),
            self.provider,
            *((beside.canary.version, beside.plan.model.sha256, beside.canary.share) if beside else ()),
        )

    @property
    def provider(self) -> str:
        """The execution provider that scores, and the canary's where that is another."""
        own = self.model.model.provider
        other = self.canary.plan.model.model.provider if self.canary else own
        return own if other == own else f"{own}, canary {other}"

    @property
    def definition(self) -> dict[str, Any]:
        """What decides the run's rows and outputs: the job file, the files it reads, its transform's source."""
        more = {"transform": self.transform.definition} if self.transform else {}
        return {**self.job_file.definition, **self.source.inputs(), **more}

    @property
    def own_reads(self) -> tuple[SourceColumn, ...]:
        """The source columns the model is scored with: the key's, then those features that are not in the key."""
        return tuple(dict.fromkeys(self.key + self.features))

    @property
    def reads(self) -> tuple[SourceColumn, ...]:
        """The source columns the run reads: its model's, then those that only the canary takes."""
        return tuple(dict.fromkeys(self.own_reads + (self.canary.plan.own_reads if self.canary else ())))


def make_plan(
    runtime: Runtime,
    connection: Connection,
    job_file: JobFile,
    interval: Interval,
    *,
    model_ref: str | None = None,
) -> Plan:
    """Resolve the model, bind and describe the query, and match its columns to the model.

    `model_ref` stands in for the job's own. Raises BatchpredError: what does not fit is found here, before
    anything is claimed or written.
    """
    job = job_file.job
    ref = model_ref or job.model
    model = resolve_model(runtime, connection, ref, job_file.path.parent, device=job.device)
    features = model.model.signature.columns(job.features)
    outputs = model.model.signature.output_columns(
        {column: parse_output_ref(ref) for column, ref in job.output.columns.items()}
    )
    source = source_of(runtime, job_file, interval, features)
    described = source.describe()
    yielded = {column.name: column for column in described}
    if len(yielded) < len(described):
        names = [column.name for column in described]
        twice = next(name for name in names if names.count(name) > 1)
        raise SourceColumnsError(
            f"{source.where}: {source.yields} column {twice} more than once; name each once"
        )
    key = key_columns(job_file, source, yielded)
    wanted = tuple(dict.fromkeys(feature.column for feature in features))
    transform = load_transform(job.transform, job_file.path.parent) if job.transform else None
    ungiven: tuple[str, ...] = ()
    if transform is not None:  # the model's columns are those it makes of all the source's
        transform.columns = wanted
        # A query can cast what has no meaning here; of files nobody asked for each column.
        of_files = job.source.path is not None
        wanted = tuple(name for name, column in yielded.items() if not of_files or column.arrow is not None)
        ungiven = _ungiven(transform, [yielded[name] for name in yielded if name not in wanted])
    missing = [name for name in wanted if name not in yielded]
    if missing:
        raise SourceColumnsError(_missing(job_file, source, missing, yielded))
    read = tuple(yielded[name] for name in wanted)
    unreadable = [column for column in read if column.arrow is None]
    if unreadable:
        listed = ", ".join(f"{column.name} ({column.type})" for column in unreadable)
        raise SourceColumnsError(
            f"{source.where}: no model takes {listed}; {source.mend}: as a number, text or boolean"
        )
    if transform is None:
        check_columns(pa.schema([(column.name, _arrow(column)) for column in read]), features)
    table = JobTable(
        name=job.name,
        description=job.description,
        mode=job.output.mode,
        interval_unit=job.interval,
        timezone=job.schedule.timezone if job.schedule else "UTC",
        late_after=job.schedule.late_after if job.schedule else None,
        key=tuple(
            Column(column.name, _KEY_TYPES[KEY_KINDS[column.type]], KEY_KINDS[column.type], "Key")
            for column in key
        ),
        outputs=tuple(
            Column(
                output.column,
                _output_type(output),
                comment=f"Model output {job.output.columns[output.column]}",
            )
            for output in outputs
        ),
    )
    predictions.check_columns(connection, table)
    scoring = ScoringPlan(features, outputs)
    checks = _own_checks(job_file, interval)
    for check in checks:
        try_out(connection, table, check)
    reference, undrifted = reference_of(connection, job_file, model.registered, scoring)
    return Plan(
        job_file,
        interval,
        source,
        key,
        read,
        model,
        scoring,
        table,
        (*_warnings(job_file), *ungiven, *undrifted, *model.notes),
        batches_for(connection, job, model.model, scoring),
        transform,
        checks,
        reference,
    )


def resolve_model(
    runtime: Runtime,
    connection: Connection,
    ref: str,
    folder: Path,
    *,
    device: Sequence[str] = ("auto",),
) -> ResolvedModel:
    """Find the version a reference names now, get its verified bytes and load them on a device.

    `file:PATH` is read relative to `folder` and checked as a push would check it. Where gates.yaml in `folder` asks
    for a signature, that of a file lies beside it, and models from elsewhere have none.
    Raises ModelError, ModelNotFoundError, ModelNameError, ModelFileError, NotSignedError or DeviceError.
    """
    notes: tuple[str, ...] = ()
    alias = registered = None
    given = signature = None
    remedy = "push the file with its signature, and name that version"
    if ref.startswith("file:"):
        path = folder / ref.removeprefix("file:")
        try:
            given = listed(path, path.read_bytes())
        except OSError as error:
            raise ModelError(f"model file {path} cannot be read: {error.strerror}") from error
        beside = path.with_name(f"{path.name}.sig")
        signature = read_signature(beside) if beside.is_file() else None
        remedy = f"put the signature of the file into {beside.name}"
        prepared = ModelCache(runtime.model_cache).examined(given)
        if prepared.data is not given and trust_in(folder, path.stem, runtime.environ):
            # What is scored with is made of the signed bytes here: a copy in the cache is not what was signed.
            prepared = examine(given)
        name, version, data, sha256 = path.stem, None, prepared.data, prepared.sha256
    elif is_remote(ref):
        remote = fetch_remote(ref, runtime.mlflow, runtime.model_cache, runtime.hub)
        name, version, data, sha256, notes = (
            remote.name,
            remote.version,
            remote.data,
            remote.sha256,
            remote.notes,
        )
    else:
        asked = registry.ModelRef.parse(ref)
        found = registered = registry.resolve(connection, asked, to_score=True)
        name, version, sha256 = found.name, found.version, found.sha256
        alias = asked.alias
        data = registry.fetch(connection, sha256, runtime.model_cache)
        signature = model_life.signature_of(connection, found)
        remedy = sign_and_push(found)
    if trust := trust_in(folder, name, runtime.environ):
        label = f"{name}/{version}" if version is not None else shown(ref)
        trust.require(label, given if given is not None else data, signature, remedy=remedy)
    model = Model.load(data, sha256=sha256, name=name, threads=runtime.threads, device=device)
    return ResolvedModel(name, version, sha256, model, notes, alias, registered)


def _own_checks(job_file: JobFile, interval: Interval) -> tuple[Check, ...]:
    values = {"interval_start": interval.start, "interval_end": interval.end, "date": interval.date}
    found = []
    for name, text in job_file.job.checks.sql.items():
        where = f"{job_file.path.name}: checks.sql.{name}"
        found.append(Check(name, bind_named(text, values, where=where), values, where))
    return tuple(found)


def _ungiven(transform: Transform, columns: Sequence[SourceColumn]) -> tuple[str, ...]:
    if not columns:
        return ()
    said = ", ".join(f"{column.name} ({column.type})" for column in columns)
    return (f"transform {transform.name} is not given {said}: only numbers, text, booleans and dates",)


def _missing(
    job_file: JobFile, source: Source, missing: Sequence[str], yielded: Mapping[str, SourceColumn]
) -> str:
    return (
        f"{source.where}: {source.yields} no column {', '.join(missing)}, which model "
        f"{shown(job_file.job.model)} takes" + nearest(missing[0], yielded)
    )


def _arrow(column: SourceColumn) -> pa.DataType:
    return pa.type_for_alias(column.arrow)


def _output_type(output: OutputColumn) -> str:
    dtype = output.dtype
    if output.is_vector:
        return {"float64": "double precision[]"}.get(
            dtype, "real[]" if dtype.startswith("float") else "bigint[]"
        )
    if dtype.startswith("float"):
        return "double precision"
    return {"bool": "boolean", "string": "text"}.get(dtype, "bigint")


def _warnings(job_file: JobFile) -> tuple[str, ...]:
    job = job_file.job
    said = []
    if find_spec("apprise") is None and any(target.apprise for target in job.notify):
        said.append('`notify` names an Apprise address; to send there: pip install "batchpred[notify]"')
    return tuple(said)
