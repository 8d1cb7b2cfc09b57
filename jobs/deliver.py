"""How messages leave: what is due is taken from the outbox, sent, and what became of it written down.

A dead receiver costs whoever meets it a bounded time. Each attempt ends by its own timeouts; a pass ends after
`within` seconds whatever is under way, for name resolution and a receiver that drips have no timeout of their
own. What is then still under way goes on in its thread while the process lives, and is made up for by another
after the lease if it does not. Where one message fails, the others to that target wait for the next pass.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from jobs import news
from storage import deliveries
from storage.errors import BatchpredError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jobs.jobfile import JobFile
    from jobs.jobspec.notify import Target
    from storage.database import Database

log = logging.getLogger("batchpred.notify")

# After each failed attempt, as Standard Webhooks proposes; ten attempts in three days, then it is given up.
DELAYS = (
    timedelta(seconds=5), timedelta(minutes=5), timedelta(minutes=30), timedelta(hours=2), timedelta(hours=5),
    timedelta(hours=10), timedelta(hours=14), timedelta(hours=20), timedelta(hours=24),
)  # fmt: skip
# A pass ends after this many seconds; a receiver that answers at all does so in one.
PATIENCE_SECONDS = 5.0
# How often a process looks while its runs go on.
LOOK_SECONDS = 30.0
_THREADS = 4


@contextmanager
def watching(database: Database, job_files: Sequence[JobFile]) -> Iterator[None]:
    """Look and deliver from time to time while the block runs, and once when it has ended.

    So a run that hangs tells by itself that its job is late. Without a `notify` list nothing is done.
    """
    told = [each for each in job_files if each.job.notify]
    if not told:
        yield
        return
    done = threading.Event()

    def keep_looking() -> None:
        while not done.wait(LOOK_SECONDS):
            look_and_deliver(database, told)

    threading.Thread(target=keep_looking, name="batchpred-notify", daemon=True).start()
    try:
        yield
    finally:
        done.set()
    look_and_deliver(database, told)


def look_and_deliver(
    database: Database, job_files: Sequence[JobFile], within: float = PATIENCE_SECONDS
) -> None:
    """Record what is news, and send what is due for `within` seconds at most; what goes wrong is logged."""
    targets = {(each.job.name, target.label): target for each in job_files for target in each.job.notify}
    try:
        with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
            news.look(connection, job_files)
            due = deliveries.due(connection, list(targets))
    except BatchpredError as error:
        log.warning("nothing told", extra={"error": str(error)})
        return
    _deliver(database, {each: targets[each] for each in due}, within)


def _deliver(database: Database, due: dict[tuple[str, str], Target], within: float) -> None:
    until = time.monotonic() + within
    waiting: queue.SimpleQueue[tuple[str, Target]] = queue.SimpleQueue()
    for (job, _), target in due.items():
        waiting.put((job, target))

    def work() -> None:
        while time.monotonic() < until:
            try:
                job, target = waiting.get_nowait()
            except queue.Empty:
                return
            try:
                _deliver_to(database, job, target, until)
            except BatchpredError as error:  # the database went away: the lease runs out, another tries again
                log.warning("not delivered", extra={"job": job, "target": target.label, "error": str(error)})

    # Daemons: a process that is done does not wait for a receiver that never answers.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(min(_THREADS, len(due)))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))


def _deliver_to(database: Database, job: str, target: Target, until: float) -> None:
    """Send what is due for one target, until one fails or the time is over."""
    while time.monotonic() < until:
        with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
            delivery = deliveries.take(connection, job, target.label, only_newest=target.kind == "ping")
        if delivery is None:
            return
        error = attempt(target, delivery)
        # On a connection of its own: none is kept open while a receiver takes its time.
        with database.errors("notify"), database.connect(purpose="notify", as_writer=True) as connection:
            if error is None:
                deliveries.mark_delivered(connection, delivery)
                continue
            delay = DELAYS[delivery.attempts - 1] if delivery.attempts <= len(DELAYS) else None
            deliveries.mark_undelivered(connection, delivery, error, delay)
        return


def attempt(target: Target, delivery: deliveries.Delivery) -> str | None:
    """Send one message; return why it did not get there, or None."""
    from jobs import senders  # most runs send nothing, and start sooner without HTTP and mail

    about = {
        "job": delivery.job,
        "kind": delivery.kind,
        "target": target.label,
        "event_id": delivery.event_id,
    }
    try:
        senders.send(
            target,
            message_id=delivery.message_id,
            kind=delivery.kind,
            happened_at=delivery.happened_at,
            message=delivery.message,
        )
    except senders.NotDeliveredError as error:
        log.warning("not delivered", extra={**about, "attempt": delivery.attempts, "error": str(error)})
        return str(error)
    log.info("delivered", extra=about)
    return None
