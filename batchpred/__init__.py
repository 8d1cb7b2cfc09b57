"""batchpred: batch predictions with ONNX models, published into PostgreSQL and read by key."""

from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from batchpred.python_push import push

__all__ = ["__version__", "push"]
__version__ = version("batchpred")


def __getattr__(name: str) -> Any:
    # `import batchpred` loads neither the database driver nor ONNX Runtime.
    if name == "push":
        from batchpred.python_push import push

        return push
    raise AttributeError(f"module 'batchpred' has no attribute {name!r}")
