"""What is done to the server and the network under a run: stopped, killed, full, cut off, silent."""

import time

from storage.embedded.errors import EmbeddedStartError
from tests.chaos.proxy import Proxy
from tests.chaos.server import give_room
from tests.chaos.world import CHUNKS, wait

# Chunks that a runner may have scored and not committed: one being written, one waiting, one being scored.
IN_FLIGHT = 3
# The kilobytes of a disk on which a run's twenty chunks have no room, and one on which only its key has none.
SMALL_DISKS = (64, 108)
# A runner in a trial takes a peer for dead after so many silent seconds.
SILENCE = 1.0


def server_stopped(trial, verdict, *, at):
    """PostgreSQL is stopped at once (`-m immediate`) at a commit point and started again; the runner lives on."""
    _outage(trial, verdict, at, trial.world.server.stop_at_once)


def server_killed(trial, verdict, *, at):
    """The postmaster is killed at a commit point and PostgreSQL started again; the runner lives on."""
    _outage(trial, verdict, at, trial.world.server.kill)


def killed_when_published(trial, verdict, *, mutant=None):
    """PostgreSQL is killed the moment a run says that it has published: the crash takes nothing of that back.

    The database's default is not to wait for the disk, as somebody may have set it, and the server writes late
    what nobody waited for: it has just done so, and will again in ten seconds, the most there is, or after much
    more than a run writes.
    """
    _settle(trial)
    trial.world.do("ALTER SYSTEM SET wal_writer_delay = '10s'")
    trial.world.do("ALTER SYSTEM SET wal_writer_flush_after = '1GB'")
    trial.world.do("SELECT pg_reload_conf()")
    trial.do(f"ALTER DATABASE {trial.url.rsplit('/', 1)[1]} SET synchronous_commit = off")
    left = trial.run(mutant=mutant, kill_server=str(trial.world.server.data))
    verdict.kills += 1
    _come_back(trial.world.server)
    trial.world.do("ALTER SYSTEM RESET wal_writer_delay")
    trial.world.do("ALTER SYSTEM RESET wal_writer_flush_after")
    trial.world.do("SELECT pg_reload_conf()")
    if left["status"] != "published":
        verdict.broken.append(f"a run that nothing disturbed ended as {left['status']}: {left['error']}")
    if trial.current() != trial.world.new:
        verdict.broken.append("what was published is gone after the crash")


def _outage(trial, verdict, at, strike):
    _settle(trial)
    process, result = trial.start(at=at, when="before", action="mark")
    until = time.monotonic() + 30
    while not result.with_suffix(".mark").exists():
        if time.monotonic() > until or not process.is_alive():
            verdict.broken.append("the fault never struck")
            return
        time.sleep(0.002)
    strike()
    verdict.kills += 1
    time.sleep(0.3)
    _come_back(trial.world.server)
    left = wait(process, result)
    # The runner goes on by itself, or ends with one line; a re-run follows either way.
    if left["status"] != "published" and (left["exit_code"] != 1 or not _is_one_line(left["error"])):
        verdict.broken.append(f"an outage ended as {left['status']} ({left['exit_code']}): {left['error']}")


def _settle(trial):
    # A database cloned since the last checkpoint has its sequences with the numbers that its template had logged
    # ahead: PostgreSQL takes them for logged here too, and after a crash gives numbers twice.
    trial.world.do("CHECKPOINT")


def _come_back(server):
    try:
        server.start()
    except EmbeddedStartError:  # children of the killed one were still there; a person would try again too
        time.sleep(1)
        server.start()


def disk_full(trial, verdict, *, kilobytes):
    """The disk has no room for the run's table: one clear message, nothing published, and with room it goes on."""
    server, name = trial.world.server, trial.url.rsplit("/", 1)[1]
    disk = trial.afterwards.enter_context(server.small_disk(kilobytes))
    trial.do(
        f"CREATE TABLESPACE small_{name} LOCATION '{disk}'; GRANT CREATE ON TABLESPACE small_{name} TO PUBLIC; "
        f"ALTER DATABASE {name} SET default_tablespace = small_{name}"
    )
    trial.afterwards.callback(trial.world.do, f"DROP TABLESPACE small_{name}")
    left = trial.run()
    verdict.kills += 1
    if (left["status"], left["exit_code"], left["attempts"]) != ("failed", 1, 1):
        verdict.broken.append(f"a full disk ended as {left['status']} after {left['attempts']} attempts")
    if "disk is full" not in (left["error"] or "") or not _is_one_line(left["error"]):
        verdict.broken.append(f"a full disk was told as: {left['error']}")
    if trial.current() != trial.world.old:
        verdict.broken.append("a run that found the disk full has published")
    give_room(disk)


def network_reset(trial, verdict, *, at):
    """Every connection of the runner is reset before the `at`-th COMMIT; it connects again and ends."""
    with Proxy(trial.runners_url, at, "reset") as network:
        left = trial.run(url=network.address)
    _came_through(verdict, network, left, attempts=2)


def black_hole(trial, verdict, *, at, seconds):
    """No byte gets through for a while and nobody is told; when it heals the run goes on as if nothing was."""
    with Proxy(trial.runners_url, at, "silence") as network:
        process, result = trial.start(url=network.address)
        network.struck.wait(30)
        process.join(seconds)
        network.heal()
        left = wait(process, result)
    _came_through(verdict, network, left, attempts=1)


def lost_commit_reply(trial, verdict, *, at, mutant=None):
    """The `at`-th COMMIT is done on the server, and the network breaks before its reply."""
    with Proxy(trial.runners_url, at, "lose") as network:
        left = trial.run(url=network.address, mutant=mutant)
    _came_through(verdict, network, left, attempts=2)


def mute_peer(trial, verdict, *, at):
    """The `at`-th COMMIT is done, and nothing comes any more on a connection that stays open: it is given up."""
    with Proxy(trial.runners_url, at, "mute") as network:
        left = trial.run(url=network.address, silence=SILENCE)
    _came_through(verdict, network, left, attempts=2)


def _came_through(verdict, network, left, attempts):
    if not network.struck.is_set():
        verdict.broken.append("the fault never struck")
    verdict.kills += network.struck.is_set()
    if (left["status"], left["attempts"]) != ("published", attempts) or left["scored"] > CHUNKS + IN_FLIGHT:
        verdict.broken.append(
            f"it ended as {left['status']} after {left['attempts']} attempts and {left['scored']} chunks: "
            f"{left['error']}"
        )


def _is_one_line(error):
    return "\n" not in error and "fault in batchpred" not in error
