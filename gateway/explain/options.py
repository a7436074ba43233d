"""The options of `overspill explain`, each with its help."""

from pathlib import Path
from typing import Annotated, Literal

import typer

RouteName = Annotated[
    str | None, typer.Option("--route", metavar="R", help="The route of the file, if it has several.")
]
StateFile = Annotated[
    Path | None,
    typer.Option(
        "--state",
        metavar="FILE",
        help="What the backends and the queue are doing (YAML; config/explain-state.yaml shows all of it). "
        "Without it everything is up and idle.",
    ),
]
Size = Annotated[
    float | None,
    typer.Option("--size", min=0, metavar="N", help="How much there is to do, in the unit of the route."),
]
Priority = Annotated[
    Literal["critical", "default", "best_effort"], typer.Option("--priority", help="The class of the call.")
]
Protocol = Annotated[
    Literal["kserve", "grpc", "openai", "raw"] | None,
    typer.Option("--protocol", help="What the call comes in, if not what the route matches."),
]
Operation = Annotated[
    str | None,
    typer.Option("--operation", metavar="OP", help="What it asks for: infer, stream_infer, chat, …"),
]
Stream = Annotated[bool, typer.Option("--stream", help="Its answer is a stream.")]
Body = Annotated[int, typer.Option("--body", min=0, metavar="BYTES", help="The size of its body.")]
Version = Annotated[
    str, typer.Option("--version", metavar="VERSION", help="The version of the model that it asks for.")
]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the explanation as one JSON object on standard output.")
]
