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
AsJson = Annotated[
    bool, typer.Option("--json", help="Print the explanation as one JSON object on standard output.")
]
