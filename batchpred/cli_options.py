"""Options that many commands have, said the same everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
Project = Annotated[
    Path, typer.Option("--project", "-C", help="The folder with the *.job.yaml files.", file_okay=False)
]
