"""A model in a test's registry, pushed in this process: what a command would do, without its start."""

from jobs.onnx_file import prepare
from storage import registry


def push_model(database, name, data, alias="champion"):
    """Store the ONNX file as the next version of `name` and point the alias at it."""
    prepared = prepare(data)
    with database.connect(purpose="test", as_writer=True) as connection:
        registry.push(
            connection, name, prepared.data, described=prepared.described, source="a test", alias=alias
        )
