"""The JSON of predictions, written from a form: the same bytes as a JSON library's."""

import json
import math
from datetime import UTC, date, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from api import answers
from storage.served import ServedJob, ServedRun

NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"))
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.dates() | st.datetimes()


def job_of(names):
    columns = tuple((name, "text") for name in names)
    return ServedJob("a%s", "", "snapshot", "UTC", "day", columns[:1], columns[1:], timedelta(hours=1))


RUN = ServedRun(
    "a%s", 7, datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC), date(2026, 1, 1), 'm"%d', 3,
    "a" * 64, 1, 0, datetime(2026, 1, 2, tzinfo=UTC), None, None,
)  # fmt: skip


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=2, max_size=4, unique=True
    ),
    st.data(),
)
def test_a_prediction_is_written_as_a_library_would(names, data):
    """Whatever the names and values are, percent signs and quotes among them; one, or several in a row."""
    rows = [tuple(data.draw(VALUES) for _ in names) for _ in range(3)]
    job = job_of(names)
    writer = answers.prediction_writer(job, RUN)
    expected = [
        answers.dumps({"job": job.name, **answers.prediction(job, named), **answers.origin(RUN)})
        for named in (dict(zip(names, row, strict=True)) for row in rows)
    ]
    assert expected == [writer.before + writer.values((*row, 7)) + writer.behind for row in rows]
    assert b",".join(expected) == writer.documents([(*row, 7) for row in rows])


def test_several_are_one_document():
    """Runs once, then each prediction with its run, then what is added; numbers that JSON lacks are texts."""
    rows = [(1, 0.5, 7), (2, math.inf, 7)]
    written = answers.several(job_of(("id", "score")), rows, {7: RUN}, missing=[{"id": 3}])
    assert {
        "job": "a%s",
        "runs": [json.loads(answers.dumps(answers.origin(RUN)))],
        "predictions": [
            {"key": {"id": 1}, "prediction": {"score": 0.5}, "run_id": 7},
            {"key": {"id": 2}, "prediction": {"score": "Infinity"}, "run_id": 7},
        ],
        "missing": [{"id": 3}],
    } == json.loads(written)
