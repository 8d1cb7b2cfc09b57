"""The reader that looks all the while: one key, one batch and one aggregate, over and over."""

import threading

import psycopg

KEY, BATCH = 5, list(range(1, 51))


class Reader:
    """Reads in a thread of its own; what no single run would have answered is in `torn`, errors in `errors`.

    `answers` are the whole answers that may be seen: {id: score} of each run that readers may meet.
    """

    def __init__(self, url, answers):
        self.torn = []
        self.errors = []
        self.reads = 0
        self._answers = [Answers(rows) for rows in answers]
        self._url = url
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="chaos-reader")

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    def _run(self):
        try:
            with psycopg.connect(self._url, autocommit=True, application_name="chaos reader") as connection:
                while not self._stop.is_set():
                    self._look(connection)
                    self.reads += 3
        except Exception as error:
            self.errors.append(repr(error))

    def _look(self, connection):
        one = connection.execute("SELECT score FROM predictions.chaos WHERE id = %s", [KEY]).fetchall()
        batch = connection.execute(
            "SELECT id, score, run_id FROM predictions.chaos WHERE id = ANY(%s) ORDER BY id", [BATCH]
        ).fetchall()
        # numeric, because a sum of floats depends on the order of its rows
        total = connection.execute(
            "SELECT count(*), sum(score::numeric), count(DISTINCT run_id) FROM predictions.chaos"
        ).fetchone()
        self._compare("lookup", one, [each.one for each in self._answers])
        self._compare("batch", [row[:2] for row in batch], [each.batch for each in self._answers])
        self._compare("aggregate", total, [each.total for each in self._answers])
        if len({row[2] for row in batch}) > 1:
            self.torn.append(("batch of two runs", batch))

    def _compare(self, what, answer, allowed):
        if answer not in allowed:
            self.torn.append((what, answer))


class Answers:
    """What one published run answers to each of the reader's questions; `rows` is {id: (score, its text)}."""

    def __init__(self, rows):
        self.one = [(rows[KEY][0],)] if KEY in rows else []
        self.batch = [(key, rows[key][0]) for key in BATCH if key in rows]
        self.total = (len(rows), sum(each for _, each in rows.values()), 1)
