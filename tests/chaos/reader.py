"""The reader that looks all the while: one key, one batch and one aggregate, over and over.

It looks from two sessions. One sends statement after statement, each with a snapshot of its own; the other looks
three times within one repeatable-read transaction, as an export does, and must find one and the same run.
"""

import threading
import time

import psycopg

KEY, BATCH = 5, list(range(1, 51))
# Between two rounds of a session; without it the readers leave nothing of two cores to what they look at.
PAUSE_SECONDS = 0.005


class Reader:
    """Reads in threads of its own; what no single run would have answered is in `torn`, errors in `errors`.

    `answers` are the whole answers that may be seen: {id: score} of each run that readers may meet. One that is
    `patient` connects anew when its server is gone. `longest` is the longest look in seconds, by what `phase` says
    at its end.
    """

    def __init__(self, url, answers, *, patient=False, pause=PAUSE_SECONDS, phase=lambda: ""):
        self.torn = []
        self.errors = []
        self.reads = 0
        self.longest = {}
        self._answers = [Answers(rows) for rows in answers]
        self._url = url
        self._patient = patient
        self._pause = pause
        self._phase = phase
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, args=(look,), name=f"chaos-reader-{look.__name__}")
            for look in (self._by_statement, self._in_one_transaction)
        ]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, look):
        while not self._stop.is_set():
            try:
                with psycopg.connect(
                    self._url, autocommit=True, application_name="chaos reader"
                ) as connection:
                    while not self._stop.is_set():
                        began = time.perf_counter()
                        look(connection)
                        now = self._phase()
                        self.longest[now] = max(self.longest.get(now, 0.0), time.perf_counter() - began)
                        self.reads += 3
                        time.sleep(self._pause)
            except Exception as error:
                if not (self._patient and _is_lost(error)):
                    self.errors.append(repr(error))
                    return
                time.sleep(0.02)

    def _by_statement(self, connection):
        self._look(connection)

    def _in_one_transaction(self, connection):
        with connection.transaction():
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            seen = self._look(connection)
        if not set.intersection(*seen):
            self.torn.append(("one transaction met two runs", seen))

    def _look(self, connection):
        one = connection.execute("SELECT score FROM predictions.chaos WHERE id = %s", [KEY]).fetchall()
        batch = connection.execute(
            "SELECT id, score, run_id FROM predictions.chaos WHERE id = ANY(%s) ORDER BY id", [BATCH]
        ).fetchall()
        # numeric, because a sum of floats depends on the order of its rows
        total = connection.execute(
            "SELECT count(*), sum(score::numeric), count(DISTINCT run_id) FROM predictions.chaos"
        ).fetchone()
        seen = [
            self._compare("lookup", one, [each.one for each in self._answers]),
            self._compare("batch", [row[:2] for row in batch], [each.batch for each in self._answers]),
            self._compare("aggregate", total, [each.total for each in self._answers]),
        ]
        if len({row[2] for row in batch}) > 1:
            self.torn.append(("batch of two runs", batch))
        return seen

    def _compare(self, what, answer, allowed):
        """The numbers of the runs that would have answered so."""
        if answer not in allowed:
            self.torn.append((what, answer))
        return {number for number, each in enumerate(allowed) if each == answer}


def _is_lost(error):
    return isinstance(
        error, psycopg.OperationalError
    )  # a server that went away, or does not let anybody in yet


class Answers:
    """What one published run answers to each of the reader's questions; `rows` is {id: (score, its text)}."""

    def __init__(self, rows):
        self.one = [(rows[KEY][0],)] if KEY in rows else []
        self.batch = [(key, rows[key][0]) for key in BATCH if key in rows]
        self.total = (len(rows), sum(each for _, each in rows.values()), 1)
