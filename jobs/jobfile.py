"""How a job file becomes a job: read strictly, checked whole, its faults told with line and nearest word."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any, get_args

from pydantic import BaseModel, ValidationError

from jobs.errors import JobFileError
from jobs.jobspec import Job
from jobs.yamlfile import Document, read_document
from storage.database import Database

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from jobs.yamlfile import Place

_ENDING = ".job.yaml"
_WANTED = {
    "string_type": "text",
    "int_type": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "list_type": "a list, such as [a, b],",
    "dict_type": "a mapping of keys to values",
    "model_type": "a mapping of keys to values",
}


@dataclass(frozen=True)
class JobFile:
    """A job, the file it came from, and its query's text; or the path of its files."""

    path: Path
    job: Job
    query: str

    @property
    def definition(self) -> dict[str, Any]:
        """What decides a run's rows and outputs, as plain JSON: no times, no descriptions, no secrets."""
        job = self.job
        dsn = job.source.dsn
        # Only where there are files: a query's definition, and with it its digest, is what it was before.
        files = {"path": job.source.files_definition} if job.source.path is not None else {}
        return {
            "query": self.query,
            # Where it is asked, without the password: another database gives other rows.
            "source": Database.at(dsn.get_secret_value(), named="source.dsn").place if dsn else None,
            "params": {name: _plain(value) for name, value in job.source.params.items()},
            "key": job.key,
            "features": job.features,
            "output": job.output.model_dump(),
            "interval": job.interval,
            "timezone": job.zone.key,
            **files,
        }

    @property
    def definition_sha256(self) -> str:
        """The digest of `definition`: two runs with the same one asked the same question."""
        return definition_digest(self.definition)


def definition_digest(definition: Mapping[str, Any]) -> str:
    """Return the sha256 of a definition, written as JSON."""
    text = json.dumps(definition, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def load_job(path: Path, environ: Mapping[str, str]) -> JobFile:
    """Read one job file and its query. Raises JobFileError with a line, file:line:column first, for each fault."""
    document = read_document(text_of(path, "a job file"), path.name, environ)
    try:
        job = Job.model_validate(document.data)
    except ValidationError as error:
        raise JobFileError(faults_of(error, path.name, document, Job)) from None
    if path.name != job.name + _ENDING:
        line, column = document.position(("name",))
        raise JobFileError(
            f"{path.name}:{line}:{column}: the job is called {job.name!r}, so its file is {job.name}{_ENDING}"
        )
    return JobFile(path, job, _query(path, job, document))


def job_paths(folder: Path) -> list[Path]:
    """List the job files of a folder, by name."""
    return sorted(folder.glob(f"*{_ENDING}"))


def load_project(folder: Path, environ: Mapping[str, str]) -> tuple[list[JobFile], list[JobFileError]]:
    """Read every *.job.yaml of a folder, by name: the good ones, and an error for each of the others."""
    job_files, faults = [], []
    for path in job_paths(folder):
        try:
            job_files.append(load_job(path, environ))
        except JobFileError as error:
            faults.append(error)
    return job_files, faults


def choose_jobs(
    folder: Path, names: list[str], environ: Mapping[str, str]
) -> tuple[list[JobFile], list[JobFileError]]:
    """Read the jobs named, or all of the folder where none is; faults of files not asked for do not count.

    Raises JobFileError where a name is unknown, its file is faulty, or there is no job at all.
    """
    if not names:
        job_files, faults = load_project(folder, environ)
        if not job_files and not faults:
            raise JobFileError(
                f"no job file (NAME{_ENDING}) in {folder.absolute()}; make one with: batchpred init NAME"
            )
        return job_files, faults
    there = {path.name.removesuffix(_ENDING): path for path in sorted(folder.glob(f"*{_ENDING}"))}
    for name in names:
        if name not in there:
            near = get_close_matches(name, there, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(there) or 'none'}"
            raise JobFileError(f"no job {name!r} in {folder.absolute()}; {known}")
    return [load_job(there[name], environ) for name in dict.fromkeys(names)], []


def job_schema() -> dict[str, Any]:
    """Return the JSON Schema of a job file."""
    schema = Job.model_json_schema()
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "batchpred job file",
        **schema,
    }


def faults_of(error: ValidationError, where: str, document: Document, root: type[BaseModel]) -> str:
    """Say pydantic's findings about a document of `root`, a line each, in the order they stand in the file."""
    faults = sorted(
        (
            _fault(where, document, each, root)
            for each in error.errors()
            if not _is_misspelt(tuple(each["loc"]), each["type"], document, root)
        ),
        key=lambda fault: fault[0],
    )
    return "\n".join(text for _, text in faults)


def text_of(path: Path, what: str) -> str:
    """Read a file of ours; `what` is what it should be. Raises JobFileError."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise JobFileError(f"{path.name}:1:1: {what} that cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise JobFileError(f"{path.name}:1:1: {what} that is not UTF-8 (byte {error.start + 1})") from None
    if not text.strip():
        raise JobFileError(f"{path.name}:1:1: {what} that is empty")
    return text


def _query(path: Path, job: Job, document: Document) -> str:
    if job.source.query is not None or job.source.path is not None:
        return job.source.query or job.source.path or ""
    name = job.source.query_file or ""
    line, column = document.position(("source", "query_file"))
    at = f"{path.name}:{line}:{column}"
    if "\0" in name:
        raise JobFileError(f"{at}: query_file {name!r} cannot name a file")
    target = (path.parent / name).resolve()
    if not target.is_relative_to(path.parent.resolve()):
        raise JobFileError(f"{at}: query_file {name!r} lies outside the project folder")
    if not target.is_file():
        near = get_close_matches(name, [each.name for each in path.parent.glob("*.sql")], n=1, cutoff=0.4)
        raise JobFileError(
            f"{at}: there is no file {name!r}" + (f"; did you mean {near[0]!r}?" if near else "")
        )
    return text_of(target, "a query file")


def _fault(where: str, document: Document, error: Any, root: type[BaseModel]) -> tuple[tuple[int, int], str]:
    """Say one of pydantic's findings in a line, at the node it is about."""
    place: Place = tuple(error["loc"])
    kind = error["type"]
    position = document.position(place)
    if place[-1:] == ("[key]",) and place not in document.values:
        # pydantic's way to say that a key, not its value, is wrong
        place = place[:-1]
        position = document.keys[place]
    if kind == "extra_forbidden":
        position = document.keys[place]
        what = _unknown_key(place, root)
    elif kind == "missing":
        what = f"the key {place[-1]!r} is missing"
    elif kind == "value_error":
        what = str(error["ctx"]["error"])
    elif kind == "literal_error":
        what = f"{_value(document, place)!r} is not one of {error['ctx']['expected']}"
    elif kind == "string_type" and isinstance(_value(document, place), bool):
        what = f"{_dotted(place)}: yes, no, on, off, true and false are booleans in YAML; put it in quotation marks"
    elif kind in _WANTED:
        found = _found(_value(document, place))
        quoted = kind == "string_type" and found in ("a number", "a date")
        hint = "; put it in quotation marks" if quoted else ""
        what = f"{_dotted(place)}: this is {found}, where {_WANTED[kind]} belongs{hint}"
    else:
        text = error["msg"][0].lower() + error["msg"][1:]
        what = f"{_dotted(place)}: {text}"
    return position, f"{where}:{position[0]}:{position[1]}: {what}"


def _found(value: Any) -> str:
    """Say what YAML made of a value, without the value: it may be a secret."""
    # In this order: True is an int in Python too.
    kinds = {bool: "a boolean", (int, float): "a number", str: "text", list: "a list", dict: "a mapping"}
    said = next((said for kind, said in kinds.items() if isinstance(value, kind)), "a date")  # type: ignore[arg-type]
    return "empty" if value is None else said


def _is_misspelt(place: Place, kind: str, document: Document, root: type[BaseModel]) -> bool:
    """Whether a key is missing only because it is there with a slip: that is said of the unknown key."""
    there = [str(each[-1]) for each in document.keys if each[:-1] == place[:-1]]
    known = [name for name in there if name not in root.model_fields]
    return kind == "missing" and bool(get_close_matches(str(place[-1]), known, n=1))


def _unknown_key(place: Place, root: type[BaseModel]) -> str:
    model: Any = root
    for step in place[:-1]:
        if isinstance(step, int):  # one of a list, whose model the step before has found
            continue
        fields = model.model_fields
        if step not in fields:  # a name the file's author chose, within a mapping
            continue
        inner = [fields[step].annotation, *get_args(fields[step].annotation)]
        model = next((each for each in inner if isinstance(each, type) and issubclass(each, BaseModel)), root)
    near = get_close_matches(str(place[-1]), model.model_fields, n=1)
    known = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(model.model_fields)}"
    return f"unknown key {place[-1]!r}; {known}"


def _value(document: Document, place: Place) -> Any:
    value: Any = document.data
    for step in place:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):  # a step that only the checker knows, such as a branch
            continue
    return value


def _dotted(place: Place) -> str:
    return ".".join(str(step) for step in place)


def _plain(value: Any) -> Any:
    return value if isinstance(value, (str, int, float, bool, type(None))) else value.isoformat()
