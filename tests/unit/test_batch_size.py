"""The climb to a batch size, on made-up clocks; and that no prediction depends on the size, on real models."""

import hashlib
import weakref

import numpy as np
import pyarrow as pa
import pytest

from jobs.batch_size import SIZES, Batches, Choice
from jobs.model import Model, ScoringPlan
from jobs.session import is_out_of_memory
from jobs.signature import OutputColumn
from tests.unit import onnx_models as models


def climb(batches, seconds, rows=3_000_000, chunk=100_000):
    """Score rows on a clock: `seconds` tells what batches of some rows take that are scored at once."""
    sizes = []
    for _ in range(rows // chunk):
        waiting = chunk
        while waiting:
            these = batches.next(waiting)
            rounds = -(-len(these) // batches.threads)
            batches.took(sum(these), rounds * seconds(max(these)))
            sizes += these
            waiting -= sum(these)
    return sizes


def test_overhead_is_spread():
    """Where a call costs something beside its rows, the size ends where a larger one gains nothing."""
    batches = Batches(1)
    climb(batches, lambda rows: 100e-6 + rows * 1e-6)
    assert batches.is_measured
    assert batches.choice.rows == 4096  # 97.6 % of the best there is
    assert "4,096 rows, one at a time: measured in this run, 976," in batches.why


def test_a_cache_is_not_left():
    """A model that gets slower above 16,384 rows stays below."""
    batches = Batches(1)
    climb(batches, lambda rows: 1e-3 + rows * (1e-7 if rows <= 16_384 else 2e-7))
    assert batches.choice.rows == 16_384


def test_a_slow_model_is_not_pushed():
    """A call of a quarter second ends the climb: its memory would grow, and there is nothing to gain."""
    batches = Batches(1)
    sizes = climb(batches, lambda rows: rows * 5e-3, rows=200_000)
    assert (64, 64) == (batches.choice.rows, max(sizes))


def test_the_rate_is_that_of_all_threads():
    """Two batches in the time of one are twice the rows, and the size is that of each."""
    batches = Batches(2)
    climb(batches, lambda rows: 50e-6 + rows * 1e-6)
    assert (2048, True) == (batches.choice.rows, batches.is_measured)
    assert "2,048 rows, 2 at once: measured in this run, 1,95" in batches.why


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize("rows", [1, 63, 64, 500, 99_999])
def test_every_thread_has_its_share(rows, threads):
    """What waits is cut into even batches, as many for one thread as for another; too few rows are not cut up."""
    for batches in (Batches(threads, known=Choice(4096, 1.0)), Batches(threads)):
        sizes = batches.next(rows)
        assert (sum(sizes) == rows) or (batches.choice is None and [64] * threads == sizes)
        assert max(sizes) <= 4096
        assert max(sizes) - min(sizes) <= 1
        if rows >= 64 * threads:
            assert 0 == len(sizes) % threads
        else:
            assert len(sizes) == (1 if batches.choice else -(-rows // 64))


def test_memory_bounds_the_batch():
    """Inputs and outputs of one batch stay within 32 MiB, and no batch is larger than its chunk."""
    assert max(climb(Batches(1, row_bytes=1 << 20), lambda _: 1e-4)) == 32
    assert max(climb(Batches(1, chunk_rows=500), lambda _: 1e-4, rows=20_000, chunk=500)) == 500
    two = Batches(2, row_bytes=1 << 20, chunk_rows=500)
    assert max(climb(two, lambda _: 1e-4, rows=20_000, chunk=500)) == 16
    assert two.is_measured
    known = Batches(1, row_bytes=1 << 20, known=Choice(65_536, 1e6))
    assert max(known.next(100_000)) <= 32


@pytest.mark.parametrize("threads", [1, 2])
def test_what_small_chunks_allow_is_not_remembered(threads):
    """Another job of the model may have larger chunks: what this one's cut short is measured again there."""
    for chunk, remembered in ((1_000, False), (10_000, True)):
        batches = Batches(threads, chunk_rows=chunk)
        climb(batches, lambda rows: 20e-6 + rows * 1e-6, rows=300_000, chunk=chunk)
        assert (True, remembered) == (batches.is_measured, batches.is_worth_remembering)


def test_few_rows_are_no_measurement():
    """A run of few rows says that they were too few, and remembers nothing."""
    batches = Batches(1)
    climb(batches, lambda rows: rows * 1e-6, rows=1000, chunk=1000)
    assert (None, False) == (batches.choice, batches.is_worth_remembering)
    assert batches.why == "1,000 rows were too few to measure a batch size"


def test_what_is_asked_for_is_used():
    """The job file's size is used as it is, in batches as even as they can be."""
    batches = Batches(2, fixed=300)
    sizes = climb(batches, lambda _: 1e-3, rows=1000, chunk=1000)
    assert [250, 250, 250, 250] == sizes
    assert batches.why == "300 rows, 2 at once: `batch_size` of the job file"


def test_out_of_memory_halves_for_good():
    """A batch the device had no memory for halves the size of all later ones, and the summary says so."""
    batches = Batches(1, fixed=1000)
    batches.out_of_memory(1000)
    assert max(climb(batches, lambda _: 1e-3, rows=5000, chunk=5000)) == 500
    assert "halved, the device had no memory for more" in batches.why


@pytest.mark.parametrize("most", [10, 2048])
def test_out_of_memory_ends_the_climb(most):
    """A climb that meets the end of the device's memory settles below it, also with its first size."""
    batches = Batches(1)
    for _ in range(100):
        rows, *_ = batches.next(100_000)
        while rows > most:
            batches.out_of_memory(rows)
            rows //= 2
        batches.took(rows, 100e-6 + rows * 1e-6)
    assert batches.used.rows <= most
    assert max(batches.next(100_000)) <= most
    assert not batches.is_worth_remembering


@pytest.mark.parametrize(
    ("said", "full"),
    [
        ("bfc_arena.cc:376 Failed to allocate memory for requested buffer of size 4294967296", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; hostname=x ; expr=cudaMalloc((void**)&p, size);", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED", True),
        ("std::bad_alloc", True),
        ("bad allocation", True),
        ("Gather: indices element out of data bounds, idx=7 must be within [-3,2]", False),
        ("INVALID_ARGUMENT : Got invalid dimensions for input", False),
    ],
)
def test_errors_of_full_devices(said, full):
    """ONNX Runtime's words for a full device are told from errors of rows."""
    assert full == is_out_of_memory(RuntimeError(said))


def _loaded(name):
    """A model by name with its columns: (model, plan, table of 70,000 rows)."""
    random = np.random.default_rng(5)
    count = 70_000
    if name == "matrix":
        data = models.matrix(zipmap=False)[1]
        table = pa.table({c: random.normal(size=count) for c in "abcd"})
        features, outputs = dict.fromkeys("abcd"), [("p", "probabilities", 1), ("l", "label", None)]
    else:
        data = models.pipeline()[1]
        table = pa.table(
            {
                "fare": random.normal(10, 5, count),
                "distance": random.gamma(2, 2, count),
                "payment": random.choice(["card", "cash", "app"], count),
            }
        )
        features, outputs = {}, [("p", "probabilities", 1), ("l", "label", None)]
    model = Model.load(data, sha256=hashlib.sha256(data).hexdigest(), name=name, threads=2)
    dtypes = {tensor.name: tensor.dtype for tensor in model.signature.outputs}
    columns = tuple(OutputColumn(c, o, i, dtypes[o]) for c, o, i in outputs)
    return model, ScoringPlan(model.signature.columns(features), columns), table


@pytest.mark.parametrize("name", ["matrix", "pipeline"])
def test_predictions_do_not_depend_on_the_batch(name):
    """From 1 to 65,536 rows, and while the climb goes on, predictions agree: to the last bit from 64 rows on."""
    model, plan, table = _loaded(name)
    expected = model.score(table, plan, 65_536)
    for size in (1, 7, 64, 1000, *SIZES[1:]):
        rows = table.slice(0, 500 if size == 1 else 20_000 if size < 1000 else table.num_rows)
        found = model.score(rows, plan, size)
        first = expected.columns.slice(0, rows.num_rows)
        assert first["l"].equals(found.columns["l"])
        if size >= 64:
            assert first["p"].equals(found.columns["p"])
        else:  # one row at a time is another order of summation
            np.testing.assert_allclose(first["p"], found.columns["p"], rtol=0, atol=2.4e-7)
    climbing = Batches(2, row_bytes=plan.row_bytes, chunk_rows=table.num_rows)
    for _ in range(30):
        if not climbing.is_measured:
            assert expected.columns.equals(model.score(table, plan, climbing).columns)
    assert climbing.is_measured


class Small:
    """A session with memory for 100 rows, that otherwise does what the real one does."""

    def __init__(self, session, most):
        self.session, self.most, self.calls = session, most, []

    def __call__(self, wanted, feed):
        rows = len(next(iter(feed.values())))
        self.calls.append(rows)
        if rows > self.most:
            raise RuntimeError(
                "[ONNXRuntimeError] : 6 : RUNTIME_EXCEPTION : Non-zero status code returned while running MatMul "
                f"node. Name:'m' Status Message: bfc_arena.cc:376 Failed to allocate memory for requested buffer "
                f"of size {rows * 1000}"
            )
        return self.session(wanted, feed)


def test_a_full_device_gets_less():
    """Out of memory is nobody's row: the batch is halved, later ones begin smaller, nothing goes to quarantine."""
    model, plan, table = _loaded("matrix")
    expected = model.score(table, plan, 4096).columns
    small = model._run = Small(model._run, most=600)
    batches = Batches(1, fixed=4096)
    found = model.score(table, plan, batches)
    assert expected.equals(found.columns)
    assert [] == found.quarantined
    assert (486, 4) == (batches.used.rows, sum(rows > 600 for rows in small.calls) + 1)
    assert "halved" in batches.why


def test_wide_answers_are_let_go_of():
    """Of each answer the wanted column is kept; no more whole ones live at a time than two a thread."""
    model, plan, table = _loaded("matrix")
    run, answers, alive = model._run, [], []

    def seen(wanted, feed):
        returned = run(wanted, feed)
        answers.append(weakref.ref(returned[wanted.index("probabilities")]))
        alive.append(sum(answer() is not None for answer in answers))
        return returned

    model._run = seen
    model.score(table, plan, 1000)
    assert len(alive) == 70
    assert max(alive) <= 4


def test_no_memory_for_one_row():
    """Where not even one row fits the run stops and says so: quarantining every row would blame the rows."""
    model, plan, table = _loaded("matrix")
    model._run = Small(model._run, most=0)
    with pytest.raises(Exception, match=r"cpu \(CPUExecutionProvider\) has no memory for one row"):
        model.score(table.slice(0, 10), plan, 4)
