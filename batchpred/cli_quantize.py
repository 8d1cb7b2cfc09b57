"""`batchpred models quantize`: a smaller version of a model, measured beside the one it was made of."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from batchpred import console
from batchpred.cli_options import Json
from batchpred.settings import Settings


def add_to(app: typer.Typer) -> None:
    """Add the command to `batchpred models`."""
    app.command()(quantize)


def quantize(
    ref: Annotated[str, typer.Argument(metavar="REF", help="NAME/N or NAME@ALIAS")],
    int8: Annotated[bool, typer.Option("--int8", help="Weights in 8-bit integers.")] = False,
    fp16: Annotated[bool, typer.Option("--fp16", help="Weights and arithmetic in 16-bit floats.")] = False,
    as_json: Json = False,
) -> None:
    """Store a compressed model as a new version, NAME@candidate, and tell its size, speed and predictions.

    Predictions are compared on made-up rows; on a job's own: batchpred models compare JOB NAME@candidate.
    """
    from jobs.compress import compress, difference
    from jobs.gatekeeper import examine, latency
    from jobs.null_probe import made_up_rows
    from jobs.session import open_session
    from storage import model_life, registry
    from storage.errors import ConfigurationError

    if int8 == fp16:
        raise ConfigurationError("say --int8 or --fp16, one of them")
    kind = "int8" if int8 else "fp16"
    settings = Settings.read()
    database = settings.database()
    with database.errors("quantize"), database.connect(purpose="quantize", as_writer=True) as connection:
        old = registry.resolve(connection, registry.ModelRef.parse(ref), to_score=True)
        data = registry.fetch(connection, old.sha256, settings.home / "models")
        prepared = examine(compress(data, kind))
        rows = made_up_rows(prepared.signature, 1000)
        names = [tensor.name for tensor in prepared.signature.outputs]
        told = difference(open_session(data, 1), open_session(prepared.data, 1), rows, names)
        new, is_new = registry.push(
            connection, old.name, prepared.data, described=prepared.described, source=f"{kind} of {old}",
            facts=registry.Facts(tags={"compressed": kind, "made_of": str(old)}),
        )  # fmt: skip
        one = registry.ModelRef(new.name, version=new.version)
        model_life.promote(connection, one, "candidate", why=f"{kind} of {old}")
    milliseconds = {str(old): latency(data), str(new): latency(prepared.data)}
    document: dict[str, Any] = {
        "model": str(new),
        "made_of": str(old),
        "is_new": is_new,
        "bytes": {str(old): old.size, str(new): new.size},
        "milliseconds_per_10k_rows": milliseconds,
        "predictions": told,
    }
    if as_json:
        console.print_json(document)
        return
    console.out.print(f"{new} is {kind} of {old}; {new.name}@candidate points at it")
    console.print_table(
        [
            {"model": str(each), "bytes": each.size, "ms per 10,000 rows": milliseconds[str(each)]}
            for each in (old, new)
        ]
    )
    for name, figures in told.items():
        said = ", ".join(f"{what.replace('_', ' ')} {value:.4g}" for what, value in figures.items())
        console.out.print(f"{name} on 1,000 made-up rows: {said}")
