"""The options of `overspill plan` that `overspill simulate` does not have, each with its help."""

from typing import Annotated

import typer

PolicyNames = Annotated[
    list[str] | None,
    typer.Option(
        "--policy",
        metavar="NAME",
        help="A policy to plan with; may be given several times. Default: every policy that chooses by load.",
    ),
]
Loads = Annotated[
    list[float] | None,
    typer.Option(
        "--load",
        metavar="X",
        help="A multiple of the trace's load for the break-even curve; may be given several times. "
        "Default: 0.1, 0.25, 0.5, 0.75, 1.5 and 2.",
    ),
]
Repeats = Annotated[
    int,
    typer.Option(
        "--repeats", min=1, max=100, help="Runs with other seeds that tell a difference in cost from noise."
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="The first seed. Equal seeds give equal results.")]
