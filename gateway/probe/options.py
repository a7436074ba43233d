"""The options of `overspill probe`, each with its help. Nothing else: what they do is in `command.py`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class ProtocolChoice(StrEnum):
    """What the request is written in."""

    KSERVE = "kserve"
    OPENAI = "openai"
    RAW = "raw"


BackendName = Annotated[
    str, typer.Option("--backend", metavar="B", help="Which backend of the file is measured.")
]
Route = Annotated[
    str | None,
    typer.Option(
        "--route",
        metavar="R",
        help="The route whose model and protocol are used, if several use it.",
    ),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="NAME", help="The model to call. Default: the first one of the route."),
]
ProtocolUsed = Annotated[
    ProtocolChoice | None,
    typer.Option("--protocol", help="What the request is written in. Default: what the route matches."),
]
RequestFile = Annotated[
    Path | None,
    typer.Option(
        "--request",
        metavar="FILE",
        help="Body of the request, sent as it is. Without it one is made: zero tensors of the model's own "
        "shapes, or a short chat.",
    ),
]
RequestPath = Annotated[
    str | None,
    typer.Option("--path", metavar="PATH", help="Path of the request, like /v2/models/minilm/infer."),
]
Calls = Annotated[int, typer.Option("--calls", min=1, max=100_000, help="Warm calls that are measured.")]
ColdStarts = Annotated[
    int,
    typer.Option(
        "--cold-starts",
        min=0,
        max=1000,
        help="Cold starts that are measured, each after waiting out the idle time-out.",
    ),
]
Concurrency = Annotated[
    int | None,
    typer.Option(
        "--concurrency", min=1, help="Most calls at once. Default: max_in_flight. 1 measures no concurrency."
    ),
]
Timeout = Annotated[
    str, typer.Option("--timeout", metavar="T", help="Longest wait for one answer, a cold start included.")
]
Idle = Annotated[
    str | None,
    typer.Option(
        "--idle",
        metavar="T",
        help="How long an unused instance lives, where the provider's setting differs from the file.",
    ),
]
MaxUsd = Annotated[
    float | None,
    typer.Option(
        "--max-usd",
        min=0,
        help="The probe stops before it could cost more than this. Default: 0.50.",
        show_default=False,
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", "-y", help="Spend it without asking: several starts of rented instances.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output.")]
