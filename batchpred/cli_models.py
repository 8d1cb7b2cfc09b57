"""`batchpred models`: push, list and show the versions in the registry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchpred import console
from batchpred.settings import Settings

if TYPE_CHECKING:
    from storage.registry import ModelVersion

app = typer.Typer(no_args_is_help=True, help="The model registry: push, list, show.", rich_markup_mode=None)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]


@app.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", exists=True, dir_okay=False)],
    alias: Annotated[str | None, typer.Option(help="Point this alias at the version, e.g. champion.")] = None,
    as_json: Json = False,
) -> None:
    """Check an ONNX file and store it as the next version of NAME."""
    from jobs.onnx_file import prepare
    from storage import registry

    prepared = prepare(file.read_bytes())
    database = Settings.read().database()
    with database.errors("push"), database.connect(purpose="push", as_writer=True) as connection:
        version, is_new = registry.push(
            connection,
            name,
            prepared.data,
            described=prepared.described,
            source=file.name,
            alias=alias,
        )
    if as_json:
        console.print_json({**_plain(version), "is_new": is_new})
        return
    what = "pushed as" if is_new else "is already"
    console.out.print(
        f"{file.name} {what} {version.name}/{version.version}  {version.sha256[:12]}", markup=False
    )
    for note in (*version.notes, *_alias_lines(version)):
        console.out.print(f"  {note}")


@app.command(name="list")
def list_versions(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]")] = None, as_json: Json = False
) -> None:
    """List versions, newest first."""
    from storage import registry

    database = Settings.read().database()
    with database.errors("list"), database.connect(purpose="models") as connection:
        found = registry.versions(connection, name)
    if as_json:
        console.print_json({"models": [_plain(version) for version in found]})
        return
    if not found:
        console.out.print(
            "no models yet; push one with: batchpred models push NAME FILE.onnx --alias champion"
        )
    console.print_table(
        [
            {
                "model": f"{version.name}/{version.version}",
                "aliases": ", ".join(version.aliases),
                "sha256": version.sha256[:12],
                "bytes": version.size,
                "pushed": version.created_at,
                "by": version.created_by,
            }
            for version in found
        ]
    )


@app.command()
def show(
    ref: Annotated[str, typer.Argument(metavar="REF", help="name@alias or name/3")], as_json: Json = False
) -> None:
    """Show one version: digest, inputs and outputs, where it came from."""
    from storage import registry

    database = Settings.read().database()
    with database.errors("show"), database.connect(purpose="models") as connection:
        version = registry.resolve(connection, registry.ModelRef.parse(ref))
    if as_json:
        console.print_json(_plain(version))
        return
    facts = {name: value for name, value in _plain(version).items() if name not in ("signature", "notes")}
    console.print_table([{"": name, " ": str(value)} for name, value in facts.items()])
    for side in ("inputs", "outputs"):
        console.out.print()
        console.print_table(
            [
                {
                    side[:-1]: tensor["name"],
                    "dtype": tensor["dtype"],
                    "shape": "[N]" if tensor["rank"] == 1 else f"[N, {tensor['width'] or '?'}]",
                    "classes": ", ".join(tensor["classes"] or []),
                }
                for tensor in version.signature[side]
            ]
        )
    for note in version.notes:
        console.out.print(f"note: {note}")


def _plain(version: ModelVersion) -> dict[str, Any]:
    return dict(vars(version))


def _alias_lines(version: ModelVersion) -> list[str]:
    return [f"{version.name}@{alias} points at it" for alias in version.aliases]
