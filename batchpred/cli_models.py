"""`batchpred models push | list | show`; batchpred/cli_model_life.py has what becomes of versions later."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from batchpred import cli_compare, cli_model_life, cli_profile, cli_quantize, console, gating
from batchpred.cli_options import Json
from batchpred.settings import Settings
from storage.errors import ConfigurationError

if TYPE_CHECKING:
    from storage.registry import ModelVersion

app = typer.Typer(
    no_args_is_help=True,
    help="Model versions: push, compare, promote, roll back, retire.",
    rich_markup_mode=None,
)


@app.command()
def push(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    file: Annotated[Path, typer.Argument(metavar="FILE.onnx", exists=True, dir_okay=False)],
    alias: Annotated[str | None, typer.Option(help="Point this alias at the version, e.g. champion.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="A metric of it; may be repeated.")
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option(metavar="NAME=TEXT", help="A tag of it; may be repeated.")
    ] = None,
    card: Annotated[
        Path | None, typer.Option(help="Its model card, a Markdown file.", exists=True, dir_okay=False)
    ] = None,
    gates: Annotated[
        Path | None,
        typer.Option(help="The gates it must pass; gates.yaml here if there is one.", exists=True),
    ] = None,
    signature: Annotated[
        Path | None,
        typer.Option(help="A signature of the file; that of a version it is already, too.", dir_okay=False),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check an ONNX file and store it as the next version of NAME."""
    from jobs.gatekeeper import examine
    from jobs.gates import require
    from jobs.signing import read_signature
    from storage import model_life, registry

    facts = registry.Facts(_metrics(metric or []), _pairs("--tag", tag or []), _card(card))
    given = file.read_bytes()
    signed = read_signature(signature) if signature else None
    prepared = examine(given)
    settings = Settings.read()
    if signed is not None and prepared.data != given:
        raise ConfigurationError(
            f"{file.name} has ZipMaps, which a push takes out, and the signature would be of another file: push it "
            "without, sign what `batchpred models pull` writes, and push that with its signature"
        )
    by = "nobody"
    if signed is not None or alias is not None:
        by = gating.require_signature(
            settings,
            name,
            f"{name}: {file.name}",
            gates,
            data=lambda: prepared.data,
            signature=signed,
            remedy="push it with --signature FILE",
        )
    database = settings.database()
    with database.errors("push"), database.connect(purpose="push", as_writer=True) as connection:
        held = gating.hold_gates(
            settings,
            connection,
            name,
            label=file.name,
            metrics=facts.metrics,
            data=lambda: prepared.data,
            champion=gating.champion_of(connection, name, alias or "champion"),
            gates=gates,
            need_metrics=alias == "champion",
        )
        gating.show_gates(held)
        require(f"{name}: {file.name}", held)
        with connection.transaction():
            version, is_new = registry.push(
                connection,
                name,
                prepared.data,
                described=prepared.described,
                source=file.name,
                alias=alias,
                facts=facts,
            )
            if signed is not None:
                model_life.keep_signature(connection, version, signed, by)
    if as_json:
        console.print_json({**_plain(version), "is_new": is_new})
        return
    what = "pushed as" if is_new else "is already"
    console.out.print(
        f"{file.name} {what} {version.name}/{version.version}  {version.sha256[:12]}", markup=False
    )
    if signed is not None:
        console.out.print(f"  its signature is kept, verified by {by}", markup=False)
    for note in (*version.notes, *_alias_lines(version)):
        console.out.print(f"  {note}")
    if not is_new and facts != registry.Facts():
        console.err.print(
            "warning: a version is immutable: its metrics, tags and card stay as they were pushed"
        )


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
                "aliases": ", ".join(_names(version)) or ("(retired)" if version.retired_at else ""),
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
    unsaid = ("signature", "notes", "card", "deleted_at", *(() if version.canary_of else ("canary_of",)))
    facts = {
        name: value for name, value in _plain(version).items() if name not in unsaid and value is not None
    }
    console.print_table([{"": name, " ": _said(value)} for name, value in facts.items()])
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
    if version.card:
        console.out.print()
        console.out.print(version.card)


cli_model_life.add_to(app)
cli_compare.add_to(app)
cli_profile.add_to(app)
cli_quantize.add_to(app)


def _said(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return ", ".join(value) if isinstance(value, list) else str(value)


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    pairs = {}
    for text in texts:
        name, found, value = text.partition("=")
        if not found or not name.strip() or "\0" in text:
            raise typer.BadParameter(f"{text!r} is not NAME=VALUE", param_hint=option)
        pairs[name.strip()] = value.strip()
    return pairs


def _metrics(texts: list[str]) -> dict[str, float]:
    metrics = {}
    for name, value in _pairs("--metric", texts).items():
        try:
            metrics[name] = float(value)
        except ValueError:
            metrics[name] = math.nan
        if not math.isfinite(metrics[name]):
            raise typer.BadParameter(f"{name}={value!r} is no number", param_hint="--metric")
    return metrics


def _card(path: Path | None) -> str | None:
    try:
        return path.read_text(encoding="utf-8").replace("\0", "") if path else None
    except UnicodeDecodeError:
        raise typer.BadParameter(f"{path} is not UTF-8 text", param_hint="--card") from None


def _plain(version: ModelVersion) -> dict[str, Any]:
    return dict(vars(version))


def _names(version: ModelVersion) -> list[str]:
    """What it is called, and of what it is the canary."""
    from storage.canaries import percent

    of = [f"canary of {alias}, {percent(share)}" for alias, share in version.canary_of.items()]
    return [*version.aliases, *of]


def _alias_lines(version: ModelVersion) -> list[str]:
    return [f"{version.name}@{alias} points at it" for alias in version.aliases]
