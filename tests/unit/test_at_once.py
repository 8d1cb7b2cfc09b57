"""Several calls at once: order, threads, and how the first error ends them."""

import threading

import pytest

from jobs.at_once import at_once


def test_results_come_in_order():
    """Whichever thread was quicker; with one thread, and with more threads than things, too."""
    for threads in (1, 2, 3, 50):
        assert [n * n for n in range(40)] == at_once(lambda n: n * n, range(40), threads)


def test_as_many_at_once_as_threads():
    """Two calls that wait for each other both come to their end: they are under way together."""
    both = threading.Barrier(2)
    assert {0, 1} == set(at_once(lambda _: both.wait(timeout=20), range(2), 2))


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("place", [0, 7])
def test_the_first_error_ends_all(error, place):
    """No call begins after it, none is left under way, and it is the one raised."""
    begun = []

    def call(n):
        begun.append(n)
        if n == place:
            raise error
        return n

    with pytest.raises(error):
        at_once(call, range(1_000_000), 3)
    assert len(begun) < 1_000_000  # a thread may have 5 ms to itself in between
    assert not [thread for thread in threading.enumerate() if thread.name == "batchpred-scoring"]
