"""The shadow step of a release: the candidate beside the champion on a job's own rows, and its gates."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from batchpred import console
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from batchpred.settings import Settings
    from jobs.comparison import Comparison
    from jobs.gates import Held, ShadowGates
    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from storage.database import Connection

_RECORDED = ("same", "equal", "rank_correlation", "changed_decile", "moved_two_or_more", "largest_change")


@dataclass(frozen=True)
class ShadowOn:
    """On which job's rows: those of the interval that starts on `date`, the newest published one if None."""

    job_file: JobFile
    date: str | None


def choose(
    settings: Settings, project: Path, asked: str | None, model: str, gates: Path | None
) -> ShadowOn | None:
    """Find the job whose rows the candidate is held at: `JOB` or `JOB:DATE`, else the one job that scores with it.

    `model` is the alias that is released to, NAME@ALIAS. None where nothing is asked, neither here nor in the
    gates. Raises ConfigurationError where it is not one job, or a job of another model, and JobFileError for a
    faulty gates file: before anything is trained or pushed.
    """
    from jobs.gates import load_gates
    from jobs.jobfile import choose_jobs, load_project

    name = model.partition("@")[0]
    bounds = load_gates(gates, settings.environ).of(name).shadow if gates is not None else None
    if asked is not None:
        job, _, date = asked.partition(":")
        (job_file,), _ = choose_jobs(project, [job], settings.environ)
        if job_file.job.model.replace("/", "@").partition("@")[0] != name:
            raise ConfigurationError(f"job {job} scores with {job_file.job.model}, which is not {name}")
        return ShadowOn(job_file, date or None)
    if gates is None or bounds is None:
        return None
    jobs = [each for each in load_project(project, settings.environ)[0] if each.job.model == model]
    if len(jobs) != 1:
        named = f": {', '.join(each.job.name for each in jobs)}" if jobs else ""
        first = (
            "" if jobs else f"; a first version needs none: batchpred models push {name} FILE --alias ALIAS"
        )
        raise ConfigurationError(
            f"{gates.name} holds {name} to its shadow, and {len(jobs)} jobs here score with {model}{named}; name "
            f"the one: --shadow JOB{first}"
        )
    return ShadowOn(jobs[0], None)


def shadow(
    settings: Settings,
    connection: Connection,
    on: ShadowOn,
    models: tuple[str, str],
    gates: ShadowGates | None,
) -> tuple[Comparison, list[Held]]:
    """Compare champion and candidate on the job's rows: those a run and its shadow scored, else scored for this."""
    from jobs.compare import compare_models
    from jobs.gates import hold_shadow

    interval = _interval(connection, on)
    found = compare_models(settings.runtime(), connection, on.job_file, interval, models)
    return found, hold_shadow(gates, found) if gates is not None else []


def as_details(found: Comparison) -> dict[str, Any]:
    """The comparison as the record of events keeps it."""
    outputs = {
        name: {figure: each[figure] for figure in _RECORDED if figure in each}
        for name, each in found.outputs.items()
    }
    return {
        "job": found.job,
        "interval": found.interval,
        "runs": found.runs,
        "scored": found.scored,
        "outputs": outputs,
    }


def show(details: dict[str, Any]) -> None:
    """Print the comparison, a row an output."""
    outputs: Sequence[tuple[str, dict[str, Any]]] = list(details["outputs"].items())
    console.print_table(
        [{f"{details['job']}, {details['interval']}": name, **each} for name, each in outputs]
    )


def _interval(connection: Connection, on: ShadowOn) -> Interval:
    from jobs.interval import interval_containing, interval_named, latest_complete
    from storage import attempts

    job, now = on.job_file.job, datetime.now(UTC)
    if on.date is not None:
        return interval_named(on.date, job.interval, job.zone, now)
    # What readers see was complete; the latest interval's rows may still be on their way.
    newest = attempts.newest_published(connection, job.name)
    if newest is None:
        return latest_complete(job.interval, job.zone, now)
    return interval_containing(newest["interval_start"], job.interval, job.zone)
