"""What answers look like: the JSON of jobs, runs and predictions, and the headers that say how fresh they are."""

from __future__ import annotations

import json
import math
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

from fastapi.responses import Response

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.database import Row
    from storage.served import ServedJob, ServedRun

# An answer that was current when it was made may be used this long after the next publish: what the server's
# own caches promise, and so what a client's cache may add.
STALE_SECONDS = 1


def dumps(value: Any) -> bytes:
    """Write JSON. A number that JSON cannot write is the text NaN, Infinity or -Infinity, as PostgreSQL has it."""
    try:
        text = json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=_plain)
    except ValueError:
        text = json.dumps(_finite(value), separators=(",", ":"), ensure_ascii=False, default=_plain)
    return text.encode()


def etag(run: ServedRun) -> str:
    """Return the entity tag of what a run answers: its number, and when a key was forgotten since, if one was.

    Nothing else changes of a published run.
    """
    if run.forgotten_at is None:
        return f'"{run.run_id}"'
    return f'"{run.run_id}.{round(run.forgotten_at.timestamp() * 1e6):x}"'


def list_etag(job: ServedJob, tag: str) -> str:
    """Return the tag of several predictions, given the one of what they are of.

    From a job's first canary on they are written with their versions, those of earlier runs, too.
    """
    return f'"{tag.strip(chr(34))}.v"' if job.has_canary else tag


def form_etag(tag: str, form: str) -> str:
    """Return the tag of a whole run in a form of its own, as `csv`, given the one of its pages.

    A weak one: the rows are the same each time, and come as they lie.
    """
    return f'W/"{tag.strip(chr(34))}-{form}"'


def matches(if_none_match: str | None, tag: str) -> bool:
    """Say whether a client has this answer already, where there is one: `*` is any."""
    if not if_none_match:
        return False
    if if_none_match.strip() == "*":
        return True
    tag = tag.removeprefix("W/")
    return tag in (each.strip().removeprefix("W/") for each in if_none_match.split(","))


def freshness(newest: ServedRun, now: datetime) -> dict[str, str]:
    """Return the headers that say how long an answer holds, given the job's newest run.

    A cache may use it for STALE_SECONDS, and where this service cannot be reached until the job is late: until
    then it is what the job promises. From then on every answer says that it is stale.
    """
    headers = {
        "Cache-Control": f"private, max-age={STALE_SECONDS}",
        "Age": "0",
        "Vary": "Authorization, Accept",
    }
    if newest.late_at is None:
        return headers
    if is_late(newest, now):
        headers["Batchpred-Stale"] = f"late since {_plain(newest.late_at)}"
    elif left := math.floor((newest.late_at - now).total_seconds()):
        headers["Cache-Control"] += f", stale-if-error={left}"
    return headers


def is_late(run: ServedRun | None, now: datetime) -> bool | None:
    """Say whether the job's next run is late; None where the job promises nothing or nothing is published."""
    return None if run is None or run.late_at is None else now >= run.late_at


def run_headers(run: ServedRun, newest: ServedRun) -> dict[str, str]:
    """Return the headers of an answer from one run."""
    return {"ETag": etag(run), "Batchpred-Run": str(run.run_id), **freshness(newest, datetime.now(UTC))}


def origin(run: ServedRun, version: Any = None) -> dict[str, Any]:
    """Say where a prediction comes from; `version` is the model's that made it, where the run has more than one."""
    return {
        "run_id": run.run_id,
        "model": {"name": run.model_name, "version": version or run.model_version},
        "interval_start": run.interval_start,
        "interval_end": run.interval_end,
        "as_of_date": run.as_of_date,
        "scored_at": run.scored_at,
    }


def _canary(run: ServedRun) -> dict[str, Any]:
    """Say which version scored a share of a run's keys, if one did."""
    if run.canary_version is None:
        return {}
    return {"canary": {"version": run.canary_version, "share": run.canary_share}}


def prediction(job: ServedJob, row: Row) -> dict[str, Any]:
    """Say what was predicted for a key."""
    return {
        "key": {name: row[name] for name in job.key_names},
        "prediction": {name: row[name] for name in job.output_names},
    }


class RowWriter:
    """Writes documents that differ in the values of a row alone; `document` makes one of a row's values by name.

    `before`, what `values` gives and `behind` together are the bytes of `dumps`, made in 1 µs instead of 7.
    """

    def __init__(self, names: Sequence[str], document: Callable[[Row], Any]) -> None:
        hole = "\0"  # no text in PostgreSQL has one
        first, *between, last = dumps(document(dict.fromkeys(names, hole))).decode().split(json.dumps(hole))
        self.before, self.behind = first.encode(), last.encode()
        self._form = "%s".join(["", *map(_escaped, between), ""])
        self._whole = _escaped(first) + self._form + _escaped(last)
        self._width = len(names)

    def values(self, row: Sequence[Any]) -> bytes:
        """Write what differs from row to row; more values than there are names are left out."""
        texts = [_WRITERS.get(type(value), _any_text)(value) for value in row[: self._width]]
        return (self._form % tuple(texts)).encode()

    def documents(self, rows: Sequence[Sequence[Any]]) -> bytes:
        """Write whole documents with a comma between two; of each column's values at once, 3 times as fast."""
        columns = [_texts(column) for column in list(zip(*rows, strict=True))[: self._width]]
        return ",".join([self._whole % texts for texts in zip(*columns, strict=True)]).encode()


def prediction_writer(job: ServedJob, run: ServedRun) -> RowWriter:
    """Make what writes the current prediction of a key, from its row as `storage.reads.columns` names it."""
    names = _names(job)
    return RowWriter(
        names,
        lambda row: {"job": job.name, **prediction(job, row), **origin(run, row.get("model_version"))},
    )


def _names(job: ServedJob) -> tuple[str, ...]:
    """Name the values of a row that a document has, up to the run's number."""
    return (*job.key_names, *job.output_names, *(("model_version",) if job.has_canary else ()))


def _escaped(piece: str) -> str:
    return piece.replace("%", "%%")


def _texts(column: Sequence[Any]) -> Sequence[Any]:
    """Return what `%s` writes as JSON: numbers as they are, the rest as text."""
    kinds = set(map(type, column))
    if kinds <= {int} or (kinds == {float} and all(map(math.isfinite, column))):
        return column
    return [_WRITERS.get(type(value), _any_text)(value) for value in column]


def _any_text(value: Any) -> str:
    return dumps(value).decode()


def _float_text(value: float) -> str:
    return repr(value) if math.isfinite(value) else _any_text(value)


_WRITERS: dict[type, Callable[[Any], str]] = {
    int: int.__repr__,
    float: _float_text,
    str: json.encoder.encode_basestring,
    type(None): lambda _: "null",
}


def several(job: ServedJob, rows: Sequence[Sequence[Any]], runs: dict[int, ServedRun], **more: Any) -> bytes:
    """Write the document of several predictions: each names its run, and each run is described once.

    A row has what `storage.reads.columns` names. Each prediction of a job that had a canary has its own version.
    """
    names = (*_names(job), "run_id")
    own = names[len(job.key) + len(job.outputs) :]
    writer = RowWriter(names, lambda row: {**prediction(job, row), **{name: row[name] for name in own}})
    described = dumps({"job": job.name, "runs": [{**origin(run), **_canary(run)} for run in runs.values()]})
    return b'%b,"predictions":[%b],%b' % (described[:-1], writer.documents(rows), dumps(more)[1:])


def described_run(run: ServedRun) -> dict[str, Any]:
    """Describe a run with its numbers."""
    return {
        **origin(run),
        "model": {"name": run.model_name, "version": run.model_version, "sha256": run.model_sha256},
        "predictions": run.predictions,
        "quarantined": run.quarantined,
        "published_at": run.published_at,
        **({"canary": {**_canary(run)["canary"], "sha256": run.canary_sha256}} if run.canary_version else {}),
    }


def described_job(job: ServedJob, run: ServedRun | None) -> dict[str, Any]:
    """Describe a job: what it serves, how fresh that is, and from which model."""
    return {
        "job": job.name,
        "description": job.description,
        "mode": job.mode,
        "interval": job.interval_unit,
        "timezone": job.timezone,
        "key": [{"name": name, "type": kind} for name, kind in job.key],
        "outputs": [{"name": name, "type": kind} for name, kind in job.outputs],
        "late_after_seconds": None if job.late_after is None else int(job.late_after.total_seconds()),
        "late": is_late(run, datetime.now(UTC)),
        "current": None if run is None else described_run(run),
    }


def json_response(document: Any, headers: dict[str, str] | None = None) -> Response:
    """Answer with a JSON document, or the bytes of one."""
    body = document if isinstance(document, bytes) else dumps(document)
    return Response(body, headers=headers, media_type="application/json")


def _plain(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, dict):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return value
