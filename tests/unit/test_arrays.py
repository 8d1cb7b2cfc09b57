"""Numbers between Arrow and numpy: the same values as pyarrow's own ways give, and no pandas for it."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from jobs.arrays import arrow_of, nulls_in, numpy_of, whole

NUMBERS = (
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float",
    "double",
    "bool",
)

WITHOUT_PANDAS = """
import sys
import pyarrow as pa
from jobs.resume import digest_of
from jobs.model_inputs import values_of
from jobs.arrays import arrow_of
from jobs.signature import FeatureColumn
parts = [pa.nulls(3, pa.{type}()), pa.Array.from_buffers(pa.{type}(), 3, [None, pa.py_buffer(bytes(24))])]
rows = pa.table([pa.chunked_array(parts)], names=["x"])
digest_of(rows)
arrow_of(values_of(rows["x"], FeatureColumn("x", "x", "{dtype}", 1, 0, 1), {{}}))
sys.exit("pandas" in sys.modules)
"""


@pytest.mark.parametrize("name", NUMBERS)
def test_the_values_are_those_pyarrow_gives(name):
    """With and without NULL, of a slice as well, with NULL as NaN or as zero."""
    type_ = pa.bool_() if name == "bool" else pa.type_for_alias(name)
    full = pa.array([1, 0, 1, 1, 0] * 5, pa.int8()).cast(type_)
    sparse = pa.array([1, None, 0, 1, None] * 5, pa.int8()).cast(type_)
    for array in (full, full.slice(3, 11), full.slice(0, 0), whole(pa.chunked_array([full, full]))):
        np.testing.assert_array_equal(array.to_numpy(zero_copy_only=False), numpy_of(array), strict=True)
        assert array.equals(arrow_of(numpy_of(array)))
        assert not nulls_in(array).any()
    for array in (sparse, sparse.slice(3, 11)):
        zeros = array.fill_null(pa.scalar(0).cast(type_)).to_numpy(zero_copy_only=False)
        np.testing.assert_array_equal(zeros, numpy_of(array, null=0), strict=True)
        assert array.is_null().to_pylist() == nulls_in(array).tolist()
        nans = array.to_numpy(zero_copy_only=False).astype(np.float64)
        np.testing.assert_array_equal(nans, numpy_of(array))


def test_what_lies_in_one_piece_is_not_copied():
    """Nor are numbers without NULL, there and back."""
    array = pa.array(np.arange(5))
    back = arrow_of(numpy_of(whole(pa.chunked_array([array]))))
    assert back.buffers()[1].address == array.buffers()[1].address


@pytest.mark.parametrize(
    ("type_", "dtype"), [("float64", "float32"), ("int64", "int64"), ("int32", "float64")]
)
def test_numbers_go_to_the_model_and_back_without_pandas(type_, dtype):
    """It takes longer to import than a chunk to score, and pyarrow imports it wherever it is installed."""
    pytest.importorskip("pandas")
    script = WITHOUT_PANDAS.format(type=type_, dtype=dtype)
    assert 0 == subprocess.run([sys.executable, "-c", script], check=False).returncode
