"""One run from claim to publish: a page of prose that the other modules fill in."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from jobs import blocked, canary, checks, drift, news, summary
from jobs.errors import JobError
from jobs.plan import Plan, Runtime, make_plan
from jobs.progress import Progress
from jobs.remote_models import shown
from jobs.report import RunReport
from jobs.resume import RowsChangedError
from jobs.retries import cause_of
from jobs.rows import Writer, score_rows
from jobs.shadow import Wish, shadowed
from jobs.stopping import HandedOverError, RunStoppedError, Terms
from storage import predictions, runs, unfinished, watch
from storage.database import DatabaseUnreachableError
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Callable

    from jobs.interval import Interval
    from jobs.jobfile import JobFile
    from storage.database import Connection

log = logging.getLogger("batchpred.run")

# What a complete run may fail at: its table stays for inspection, and readers keep what they have.
_BLOCKING = (checks.ChecksFailedError, predictions.DuplicateKeyError)

_STATUSES: dict[type[BatchpredError], str] = {
    **dict.fromkeys(_BLOCKING, "blocked"),
    runs.IntervalHeldError: "held",
    runs.RunCancelledError: "cancelled",
    HandedOverError: "stopped",
}

# What neither a shadow nor a canary can be the reason of.
_NOT_THE_CANDIDATES = (
    *_BLOCKING,
    runs.IntervalHeldError,
    runs.ClaimLostError,
    runs.RunCancelledError,
    RunStoppedError,
    DatabaseUnreachableError,
)

# Seconds before each further attempt where a connection, not the work, was at fault: a failover or a restart
# with recovery is over within them, and a scheduler tries again after that.
RETRY_DELAYS = (0.2, 1.0, 5.0, 15.0)


def run_job(
    runtime: Runtime,
    job_file: JobFile,
    interval: Interval,
    *,
    model_ref: str | None = None,
    shadow_ref: str | None = None,
    force: bool = False,
    on_progress: Callable[[int], None] = lambda _rows: None,
    on_expected: Callable[[int], None] = lambda _rows: None,
    is_last_try: bool = True,
    terms: Terms | None = None,
) -> RunReport:
    """Score one job for one interval and publish; what went wrong is in the report, not raised.

    `on_progress` is given the number of rows of each chunk once it is committed, and `on_expected`, as reading
    begins, how many there may be in all (0: nobody knows). `shadow_ref` stands in for the job's own `shadow`, which
    a backfill leaves out. A failure is told (`notify`) on the last try alone.
    KeyboardInterrupt passes through, after the run has been closed.
    """
    terms = terms or Terms()
    start, end = interval.start.isoformat(), interval.end.isoformat()
    report = RunReport(None, job_file.job.name, start, end, label=interval.label)
    began = time.monotonic()
    wish = Wish(shadow_ref or (None if terms.is_backfill else job_file.job.shadow))
    asked = _Asked(
        Progress(on_progress, on_expected), terms, model_ref, force, wish, has_canary=not terms.is_backfill
    )
    try:
        with terms.stop.after(terms.deadline, report.job):
            _try_alone_too(runtime, job_file, interval, report, asked)
    except BatchpredError as error:
        report.status = next((said for kind, said in _STATUSES.items() if isinstance(error, kind)), "failed")
        report.error, report.exit_code, report.cause = str(error), error.exit_code, cause_of(error)
    except MemoryError:
        report.exit_code, report.cause = 1, "passing"
        report.error = (
            f"{report.job}: this machine has not enough memory for a chunk of {job_file.job.chunk_rows} rows; "
            "lower `chunk_rows` and `batch_size` in the job file, or give it more, and run again: what is done "
            "is kept"
        )
    except Exception as error:  # one job's surprise must not cost the others their run
        log.debug("run failed", exc_info=True)
        report.cause = "lasting"
        report.error, report.exit_code = (
            f"{report.job}: {type(error).__name__}: {error} (a fault in batchpred)",
            1,
        )
    finally:
        report.seconds = round(time.monotonic() - began, 3)
    report.shadow = wish.told
    report.warnings += [wish.warning] if wish.warning else []
    if shadow_ref is not None and wish.told is None and report.error is None:
        report.warnings.append(_no_shadow(report, shadow_ref))
    if report.status == "failed" and is_last_try:
        news.failed(runtime.database, job_file, interval, report)
    return report


def _no_shadow(report: RunReport, ref: str) -> str:
    """Say why a shadow that was asked for never began."""
    if report.status == "unchanged":
        return "no shadow: nothing was scored, because the predictions are published; --force scores anew"
    return f"no shadow: {shown(ref)} is the run's own model"


def _try_alone_too(
    runtime: Runtime, job_file: JobFile, interval: Interval, report: RunReport, asked: _Asked
) -> None:
    """Try; where that fails, without the shadow, then without the canary: neither may cost a run its rows."""
    try:
        _try(runtime, job_file, interval, report, asked)
    except Exception as error:
        is_passing = isinstance(error, BatchpredError) and error.is_transient  # tried again already
        if is_passing or isinstance(error, _NOT_THE_CANDIDATES):
            raise
        beside, failed = report.beside, report.run_id
        said = {"job": report.job, "error": str(error)}
        if asked.wish.may_be_at_fault:
            log.warning("run failed beside its shadow", extra=said)
            asked.wish.tell("abandoned", f"the run failed beside it and was tried without: {error}")
            _try_alone_too(runtime, job_file, interval, report, replace(asked, wish=Wish()))
        elif beside is not None:
            log.warning("run failed with its canary", extra=said)
            try:
                _try(runtime, job_file, interval, report, replace(asked, wish=Wish(), has_canary=False))
            finally:
                report.beside = beside
            # Where somebody else has made the run meanwhile, nothing says that it can be made without alone.
            if report.run_id != failed:
                report.warnings += canary.withdraw_failed(runtime, beside, report, error)
        else:
            raise


def _try(runtime: Runtime, job_file: JobFile, interval: Interval, report: RunReport, asked: _Asked) -> None:
    """Make an attempt, and further ones where a lost connection ended it."""
    stop = asked.terms.stop
    for delay in (*RETRY_DELAYS, None):
        stop.check()
        try:
            _attempt(runtime, job_file, interval, report, asked)
        except BatchpredError as error:
            # A first connection that fails is a wrong address or a server that is down; a later one is a
            # server that comes back.
            is_back_soon = report.attempts > 1 and isinstance(error, DatabaseUnreachableError)
            if delay is None or not (error.is_transient or is_back_soon):
                raise
            stop.check()
            log.warning("run interrupted", extra={"job": report.job, "error": str(error), "again_in": delay})
        else:
            return
        stop.wait(delay)


@dataclass(frozen=True)
class _Asked:
    """What the caller wants of the run."""

    progress: Progress
    terms: Terms
    model_ref: str | None
    force: bool
    wish: Wish
    has_canary: bool


def _attempt(
    runtime: Runtime, job_file: JobFile, interval: Interval, report: RunReport, asked: _Asked
) -> None:
    """Do a run on a connection of its own, or find that it is done: what is so is read, never remembered.

    That is why a second attempt is safe after a lost connection, when nobody knows whether the last COMMIT
    happened: it finds the run published, or takes it up at the last chunk that was committed.
    """
    report.attempts += 1
    with (
        watch.kept(),
        runtime.database.errors(f"run of {report.job}"),
        runtime.database.connect(purpose="run", as_writer=True) as connection,
    ):
        plan = make_plan(runtime, connection, job_file, interval, model_ref=asked.model_ref)
        if asked.has_canary:
            plan = canary.planned(runtime, connection, plan)
        _describe(report, plan)
        if _is_published(connection, plan, report, force=asked.force):
            return
        drift.require(plan)
        terms = asked.terms
        with runs.claim(runtime.database, connection, plan.slot, max_active=terms.max_active) as claim:
            # Whoever held the claim before us may have published just now.
            if _is_published(connection, plan, report, force=asked.force):
                return
            if not terms.is_wanted(connection):
                report.status = "unchanged"
                return
            claim.on_cancel = terms.stop.ask
            _run(connection, plan, claim, report, asked, runtime=runtime)


def _run(
    connection: Connection,
    plan: Plan,
    claim: runs.Claim,
    report: RunReport,
    asked: _Asked,
    *,
    runtime: Runtime,
) -> None:
    """Do the run that is claimed: score into a hidden table, check it, publish it; or close it as failed.

    A run that stopped half-way and would be this very one is taken up where it stopped.
    """
    stopped = unfinished.take_up(connection, claim, plan.pin, plan.table)
    run_id = report.run_id = stopped.run_id if stopped else _start(connection, plan, claim, asked.terms)
    report.fence = claim.fence
    try:
        log.info(
            "run resumed" if stopped else "run started",
            extra={"job": report.job, "run_id": run_id, "interval": plan.interval.describe()},
        )
        with shadowed(runtime, Writer(connection, claim, run_id, stopped), plan, asked.wish) as writer:
            _finish(writer, plan, report, asked)
            report.status = "published"
            log.info("run published", extra={"job": report.job, "run_id": run_id, "rows": report.rows})
    except _BLOCKING as error:
        blocked.close(connection, claim, plan, report, error)
        raise
    except RowsChangedError as error:
        runs.close_run(connection, claim, run_id, "abandoned", str(error))
        _run(connection, plan, claim, report, replace(asked, wish=Wish()), runtime=runtime)
    except runs.ClaimLostError:
        raise  # whoever has the claim now has closed this run, or goes on with it
    except BaseException as error:
        _give_up(connection, claim, run_id, error)
        raise


def _finish(writer: Writer, plan: Plan, report: RunReport, asked: _Asked) -> None:
    """Score what is not scored yet, check it, and publish."""
    connection, claim, run_id, stopped = writer.connection, writer.claim, writer.run_id, writer.stopped
    stop = asked.terms.stop
    asked.progress.begin(connection, plan, stopped)
    report.chunks_resumed = score_rows(writer, plan, asked.progress.on_rows, stop)
    stop.check()
    with connection.transaction():
        report.scoring = summary.write_down(connection, run_id, plan)
        report.drift = drift.judge(connection, run_id, plan)
        run = runs.finish_scoring(connection, claim, run_id)
    report.count(run)
    report.warnings += drift.warnings(report.drift, plan.job_file.job.drift)
    if stopped is None or not stopped.is_sealed:
        with connection.transaction():
            predictions.seal(connection, plan.table, run_id)
            claim.check(connection)
    if writer.shadow:
        writer.shadow.has_all_rows = True
    predictions.analyze(connection, run_id)
    checks.check(connection, plan, run, report.drift)
    stop.check()
    predictions.attach(connection, plan.table, run_id, claim.check)
    show = partial(predictions.show, job=plan.table)
    tell = partial(news.published, job_file=plan.job_file, interval=plan.interval)
    predictions.patiently(lambda: runs.publish(connection, claim, run_id, show, tell=tell))


def _start(connection: Connection, plan: Plan, claim: runs.Claim, terms: Terms) -> int:
    """Write a new run down and make its table: both, or neither."""
    with connection.transaction():
        definition, table = plan.definition, plan.table.as_json()
        run_id = runs.start_run(connection, claim, plan.pin, definition, table, is_backfill=terms.is_backfill)
        predictions.create_run_table(connection, plan.table, run_id)
        claim.check(connection)
    return run_id


def _give_up(connection: Connection, claim: runs.Claim, run_id: int, error: BaseException) -> None:
    """Close a run that an error ended, as far as the database still answers; the next claimer does the rest.

    Its table is dropped where its rows or its model were at fault. Else it stays: the same run may yet succeed,
    and goes on from its last chunk.
    """
    known = isinstance(error, BatchpredError)
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error) if known else repr(error)
    status = "abandoned" if isinstance(error, HandedOverError) else "failed"
    with suppress(Exception):
        closed = runs.close_run(connection, claim, run_id, status, reason)
        if closed and isinstance(error, JobError):
            predictions.drop_run_table(connection, run_id)


def _describe(report: RunReport, plan: Plan) -> None:
    model = plan.model
    report.model = {"name": model.name, "version": model.version, "sha256": model.sha256}
    report.provider = model.model.provider
    report.beside = plan.canary.canary if plan.canary else None
    report.canary = plan.canary.told if plan.canary else None
    report.warnings = list(plan.warnings)


def _is_published(connection: Connection, plan: Plan, report: RunReport, *, force: bool) -> bool:
    """Tell whether readers already see what this run would make: same interval, model, canary and definition.

    With `force` only what an attempt before this one has published counts.
    """
    done = runs.published_run(connection, plan.slot)
    is_own = done is not None and (done["run_id"], done["fence"]) == (report.run_id, report.fence)
    if not done or (force and not is_own):
        return False
    if not plan.pin.is_of(done):
        return False
    report.status = "published" if is_own else "unchanged"
    report.count(done)
    return True
