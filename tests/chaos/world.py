"""The world in which runners are hurt: a database to clone, a job of twenty chunks, and what a clean run made."""

import json
import multiprocessing
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

import onnx
import psycopg
from onnx import TensorProto, helper

from jobs.onnx_file import prepare
from storage import registry
from storage.database import Database
from storage.upgrade import upgrade
from tests.chaos import child
from tests.chaos.reader import PAUSE_SECONDS, Reader
from tests.conftest import new_database

ROWS, CHUNK_ROWS = 2_000, 100
CHUNKS = ROWS // CHUNK_ROWS
# The commit points of a run: its claim, itself, each chunk, and then counts, key, statistics, attach, publish and
# the claim's end. All but statistics and the claim's end are transactions, which end with a COMMIT.
POINTS = 2 + CHUNKS + 6
COMMITS = POINTS - 2
DAYS = ("2026-01-01", "2026-01-02")
JOB = f"""\
version: 1
name: chaos
source:
  query: SELECT id, a, b FROM rows WHERE t >= :interval_start AND t < :interval_end
key: [id]
features: {{a: float32, b: float32}}
model: chaos@champion
output: {{columns: {{score: "y[1]"}}}}
checks: {{max_quarantined: 0.05}}
chunk_rows: {CHUNK_ROWS}
"""
# Two days with the same keys and other values, in an order that is not the key's; one row in a hundred has no
# a, which becomes NaN and is set aside.
SOURCE = f"""
CREATE TABLE rows (id bigint, t timestamptz, a float8, b float8);
INSERT INTO rows
SELECT id, day + interval '1 hour', CASE WHEN id % 100 <> 7 THEN ln(id) * k END, sin(id + k)
  FROM generate_series(1, {ROWS}) AS id,
       (VALUES (1, '2026-01-01Z'::timestamptz), (2, '2026-01-02Z')) AS days (k, day)
 ORDER BY md5(id::text || k);
"""
PREDICTIONS = """
SELECT id, score, score::numeric AS exact, interval_start, as_of_date, model_name, model_version, run_id
  FROM predictions.chaos_history
 ORDER BY interval_start, id
"""
QUARANTINE = """
SELECT runs.as_of_date, key, reason, features
  FROM batchpred.quarantine JOIN batchpred.published USING (run_id) JOIN batchpred.runs USING (run_id)
 ORDER BY runs.as_of_date, key, reason
"""
# Whatever has happened, each of these finds nothing.
INVARIANTS = {
    "a run has the status published exactly where the pointer names it": """
        SELECT run_id, status FROM batchpred.runs LEFT JOIN batchpred.published USING (run_id)
         WHERE (status = 'published') <> (published.run_id IS NOT NULL)""",
    "a published run's counts are those of its chunks": """
        SELECT run_id FROM batchpred.runs JOIN batchpred.published USING (run_id)
         WHERE (rows_read, rows_scored, rows_quarantined) <>
               (SELECT sum(c.rows_read), sum(c.rows_scored), sum(c.rows_quarantined)
                  FROM batchpred.chunks AS c WHERE c.run_id = runs.run_id)""",
    "a published run's quarantine is as long as it says": """
        SELECT run_id FROM batchpred.runs JOIN batchpred.published USING (run_id)
         WHERE rows_quarantined <>
               (SELECT count(*) FROM batchpred.quarantine AS q WHERE q.run_id = runs.run_id)""",
}


def model(doc=""):
    """A model of one node: softmax over two features, of which row's NaN makes NaN; `doc` makes it another file."""
    graph = helper.make_graph(
        [helper.make_node("Softmax", ["x"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 2])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 2])],
    )
    made = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10, doc_string=doc
    )
    onnx.checker.check_model(made)
    return made.SerializeToString()


class World:
    """A database with the first day published, to be cloned for each trial, and a clean run's second day."""

    def __init__(self, server_url, folder, server=None):
        self.server_url = server_url
        self.bouncer = None
        self.pause = PAUSE_SECONDS
        self.server = server  # the campaign's own, which may be hurt too; None where it was handed to us
        self.folder = Path(folder)
        self.job = self.folder / "chaos.job.yaml"
        self.job.write_text(JOB, encoding="utf-8")
        self._processes = multiprocessing.get_context("forkserver")
        self._processes.set_forkserver_preload(["tests.chaos.child", "onnxruntime"])
        self._count = 0

    @contextmanager
    def built(self):
        """Make the database that trials clone, and note what a clean run makes of it."""
        with new_database(self.server_url) as url:
            self._template = url.partition("?")[0].rsplit("/", 1)[1]
            base = Database.at(url)
            upgrade(base)
            with base.connect(purpose="chaos") as connection:
                connection.execute(SOURCE)
                prepared = prepare(model())
                registry.push(
                    connection, "chaos", prepared.data, described=prepared.described, source="x", alias="champion"
                )  # fmt: skip
            self._run_on(url, date=DAYS[0])
            with self.clone() as trial:
                self.old = trial.current()
                trial.run()  # the first one warms the server of processes up
            with self.clone() as trial:
                began = time.monotonic()
                left = trial.run()
                self.seconds = time.monotonic() - began
                self.points, self.clean = left["points"], trial.contents()
                self.new = trial.current()
            yield self

    def _run_on(self, url, **spec):
        trial = Trial(self, url)
        # Not through a pooler: a session it keeps would keep the database from being cloned.
        left = trial.run(url=url, **spec)
        if left is None or left["exit_code"]:
            raise AssertionError(f"a run that nothing disturbs failed: {left}")

    @contextmanager
    def clone(self):
        """A trial on a database of its own."""
        with ExitStack() as afterwards:
            with new_database(self.server_url, self._template) as url:
                yield Trial(self, url, afterwards)

    def do(self, statement):
        """Do something to the server, from outside the trials' databases."""
        with psycopg.connect(self.server_url, autocommit=True, application_name="chaos hand") as connection:
            connection.execute(statement)

    def start(self, spec):
        """Start a runner; return its process and the file in which it will leave its report."""
        self._count += 1
        result = self.folder / f"result-{self._count}.json"
        full = {
            "job": str(self.job), "cache": str(self.folder / "models"), "date": DAYS[1],
            "result": str(result), **spec,
        }  # fmt: skip
        process = self._processes.Process(target=child.main, args=(full,))
        process.start()
        return process, result


class Trial:
    """One database, the runners let loose on it, and what is held against it.

    `afterwards` is what is left again when the database is gone.
    """

    def __init__(self, world, url, afterwards=None):
        self.world = world
        self.url = url
        self.afterwards = afterwards

    @property
    def runners_url(self):
        """Where runners find the database: through the campaign's pooler where it has one."""
        bouncer, name = self.world.bouncer, self.url.rpartition("/")[2]
        return f"{bouncer.address.rpartition('/')[0]}/{name}" if bouncer else self.url

    def start(self, **spec):
        """Start a runner and do not wait for it."""
        return self.world.start({"url": self.runners_url, **spec})

    def run(self, **spec):
        """Run to the end and return what the runner reported; None where it was killed."""
        return wait(*self.start(**spec))

    def run_until_done(self, **spec):
        """Run again and again while the interval is held, as a scheduler would; return the last report."""
        until = time.monotonic() + 60
        while (left := self.run(**spec)) is None or left["exit_code"] == 4:
            if time.monotonic() > until:
                raise AssertionError(f"the interval was held for a minute: {left}")
            time.sleep(0.1)
        return left

    def reader(self, *, patient=False):
        """A reader that may meet the old run and the new one."""
        answers = [self.world.old, self.world.new]
        return Reader(self.url, answers, patient=patient, pause=self.world.pause)

    def fetch(self, query):
        """The rows of a query."""
        with psycopg.connect(self.url, autocommit=True, application_name="chaos look") as connection:
            return connection.execute(query).fetchall()

    def do(self, statements):
        """Do something to the database from outside, one statement after the other."""
        with psycopg.connect(self.url, autocommit=True, application_name="chaos hand") as connection:
            connection.execute("SET timezone = UTC")
            for statement in statements.split(";"):
                connection.execute(statement)

    def current(self):
        """What readers see now: {id: (score, score as an exact number)}."""
        return {
            row[0]: row[1:] for row in self.fetch("SELECT id, score, score::numeric FROM predictions.chaos")
        }

    def contents(self):
        """All that a run leaves for readers, but for its number and its times."""
        return {
            "predictions": [row[:-1] for row in self.fetch(PREDICTIONS)],
            "current": self.current(),
            "quarantine": self.fetch(QUARANTINE),
        }

    def broken_invariants(self):
        """The names of the rules that do not hold now."""
        return [rule for rule, query in INVARIANTS.items() if self.fetch(query)]


def wait(process, result, seconds=60):
    """Wait for a runner and return its report; None where it died without one."""
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"a runner did not end within {seconds} s")
    return json.loads(result.read_text(encoding="utf-8")) if result.exists() else None


def wait_until_stopped(process, result, seconds=30):
    """Wait until a process has stopped itself; False where it ended without coming to that point."""
    del result
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = (
                Path(f"/proc/{process.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
            )
        except OSError:
            return False
        if state in "TZ":
            return state == "T"
        time.sleep(0.01)
    raise AssertionError("a runner neither stopped nor ended")


def end(process):
    """Make sure that a process is gone."""
    process.kill()
    process.join()
