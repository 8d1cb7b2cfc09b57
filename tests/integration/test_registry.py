"""The model registry: immutable versions, moving aliases, and bytes that are those that were pushed."""

import threading

import pytest

from storage import registry
from storage.registry import ModelFileError, ModelNameError, ModelNotFoundError, ModelRef

DESCRIBED = {"signature": {"inputs": [], "outputs": []}, "opset": {"ai.onnx": 18}, "notes": []}
BIG = bytes(range(256)) * 10_000  # three pieces


def push(connection, data=BIG, name="churn", **options):
    return registry.push(connection, name, data, described=DESCRIBED, source="test", **options)


def test_versions_are_numbered_and_aliases_move(connection):
    """Each new file is the next version; the alias points where the last push put it, and moves are recorded."""
    for data in (b"one", b"two", b"three"):
        push(connection, data, alias="champion")
    found = registry.versions(connection, "churn")
    assert [(3, ["champion"]), (2, []), (1, [])] == [(each.version, each.aliases) for each in found]
    moves = connection.execute(
        "SELECT from_version, to_version FROM batchpred.model_alias_moves ORDER BY move_id"
    )
    assert [(None, 1), (1, 2), (2, 3)] == [tuple(row.values()) for row in moves]


def test_the_same_file_again_is_the_version_it_is(connection):
    """Pushing known bytes makes no new version, and may still move the alias back to it."""
    first, is_new = push(connection, b"one", alias="champion")
    push(connection, b"two", alias="champion")
    again, is_new_again = push(connection, b"one", alias="champion")
    assert (True, False) == (is_new, is_new_again)
    assert (first.version, ["champion"]) == (again.version, again.aliases)


def test_bytes_come_back_as_they_were_pushed(connection, tmp_path):
    """A file of several pieces is fetched whole, and from the cache the second time."""
    version, _ = push(connection)
    assert BIG == registry.fetch(connection, version.sha256, tmp_path / "cache")
    connection.execute("DELETE FROM batchpred.model_pieces")
    assert BIG == registry.fetch(connection, version.sha256, tmp_path / "cache")


def test_a_damaged_cache_is_fetched_anew(connection, tmp_path):
    """A flipped bit in the cache is noticed and mended from the database."""
    version, _ = push(connection)
    registry.fetch(connection, version.sha256, tmp_path)
    cached = next(tmp_path.glob("*.onnx"))
    cached.write_bytes(b"\xff" + BIG[1:])
    assert BIG == registry.fetch(connection, version.sha256, tmp_path)
    assert BIG == cached.read_bytes()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (
            "UPDATE batchpred.model_pieces SET data = set_byte(data, 5, 77) WHERE piece = 1",
            "holds bytes with digest",
        ),
        ("DELETE FROM batchpred.model_pieces WHERE piece = 2", "holds bytes with digest"),
        ("DELETE FROM batchpred.model_pieces", "holds nothing"),
    ],
)
def test_a_damaged_store_is_refused(connection, tmp_path, damage, says):
    """Bytes in the database that are not those that were pushed are never used, nor cached."""
    version, _ = push(connection)
    connection.execute(damage)
    with pytest.raises(ModelFileError, match=says):
        registry.fetch(connection, version.sha256, tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_racing_pushes_get_numbers_of_their_own(database):
    """Eight pushes at once give eight versions, 1 to 8."""
    numbers = []

    def one(data):
        with database.connect(purpose="push", as_writer=True) as connection:
            numbers.append(push(connection, data)[0].version)

    threads = [threading.Thread(target=one, args=[bytes([n])]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(range(1, 9)) == sorted(numbers)


@pytest.mark.parametrize(
    "name", ["", "Churn", "9lives", "a b", 'a"b', "a\0b", "a" * 64, "ä", "../a", "churn\n"]
)
def test_names_that_could_be_misread_are_refused(connection, name):
    """A model name is lower-case ASCII and short; the message says what is allowed."""
    with pytest.raises(ModelNameError, match="a lower-case letter, then up to 62"):
        push(connection, b"x", name=name)


@pytest.mark.parametrize(
    "text", ["churn", "churn@", "@champion", "churn/0", "churn/x", "churn/-1", "a/b@c", "churn/1\n"]
)
def test_references_have_two_forms(text):
    """NAME@ALIAS and NAME/VERSION are references, and nothing else is."""
    with pytest.raises(ModelNameError, match="write NAME@ALIAS"):
        ModelRef.parse(text)


def test_what_is_not_there_is_said_with_what_is(connection):
    """An unknown name, alias or version is answered with what exists."""
    with pytest.raises(ModelNotFoundError, match="the registry is empty"):
        registry.resolve(connection, ModelRef.parse("churn@champion"))
    push(connection, b"one", alias="candidate")
    for text, says in (
        ("chrun@champion", "there are churn"),
        ("churn@champion", "it has candidate"),
        ("churn/9", "the newest is 1"),
    ):
        with pytest.raises(ModelNotFoundError, match=says):
            registry.resolve(connection, ModelRef.parse(text))
