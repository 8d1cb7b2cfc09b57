"""What a person and a program see of a run under way."""

import io
import logging

import pytest
from rich.console import Console

from batchpred import cli, console


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is moved."""
    now = [100.0]
    monkeypatch.setattr(console.time, "monotonic", lambda: now[0])
    return now


def test_time_left(clock):
    """Rows, rows a second and the time left; no time left once more rows came than were expected."""
    counter = console.Counter("j")
    assert counter.line() == "0 rows"
    counter.expect(1_000)
    clock[0] += 2
    counter(250)
    assert counter.line() == "250 of about 1,000 rows  125 rows/s  about 0:00:06 left"
    clock[0] += 2
    counter(900)
    assert counter.seconds_left is None
    assert counter.line() == "1,150 of about 1,000 rows  288 rows/s"


def test_an_unknown_number_of_rows(clock):
    """Where nobody knows how many rows there are, no time left is made up."""
    counter = console.Counter("j")
    counter.expect(0)
    clock[0] += 1
    counter(10)
    assert counter.line() == "10 rows  10 rows/s"


def test_lines_for_programs(clock, caplog):
    """Without a terminal each chunk is one line of the log, with the same numbers."""
    with caplog.at_level(logging.INFO, "batchpred.run"), console.progress("j") as counter:
        counter.expect(100)
        clock[0] += 2
        counter(50)
    record = caplog.records[-1]
    assert (50, 100, 25, 2.0) == (
        record.rows_done, record.rows_expected, record.rows_per_second, record.seconds_left,
    )  # fmt: skip


def test_a_bar_on_a_terminal(monkeypatch):
    """On a terminal a bar shows the rows and is gone at the end."""
    screen = io.StringIO()
    monkeypatch.setattr(console, "err", Console(file=screen, force_terminal=True, width=100))
    with console.progress("churn") as counter:
        counter.expect(100)
        counter(40)
    assert "churn" in screen.getvalue()
    assert "40 of about 100 rows" in screen.getvalue()


@pytest.mark.parametrize(("package", "extra"), [("prometheus_client", "api"), ("onnxruntime", "cpu")])
def test_a_missing_package_names_the_extra_that_brings_it(package, extra):
    """The message of a missing package says which extra to install."""
    message, code = cli._explain(ModuleNotFoundError(name=package))
    assert (2, True) == (code, f'pip install "batchpred[{extra}]"' in message)
