"""batchpred: batch predictions with ONNX models, published into PostgreSQL and read by key."""

from importlib.metadata import version

__version__ = version("batchpred")
