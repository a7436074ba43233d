"""Puts a worker together: the kit, a platform's entry point and its deploy example, in one folder.

    python -m backends.workers cloud_run ./worker --kserve

What lies there already and is not the same stays: your model and your edits are not written over. It knows
which files go together; it must never know what is in them.
"""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

HERE = Path(__file__).parent
ROOT = HERE.parent.parent

KSERVE = (
    "backends/emulators/kserve_app.py", "backends/emulators/kserve_infer.py",
    "backends/emulators/tensors.py", "backends/emulators/triton_json.py", "gateway/clock.py",
)  # fmt: skip
"""What `kserve_v2.py` stands on, standard library only. It keeps its place below packages that are empty."""


class Platform(StrEnum):
    """A folder of deploy files, and what they run."""

    AZURE = "azure"
    AZURE_PYTHON = "azure_python"
    BENTOML = "bentoml"
    CLOUD_RUN = "cloud_run"
    LAMBDA = "lambda"
    MODAL = "modal"
    REPLICATE = "replicate"
    RUNPOD = "runpod"
    RUNPOD_LB = "runpod_lb"
    SAGEMAKER = "sagemaker"


ENTRY_POINTS: dict[Platform, dict[str, str]] = {
    Platform.AZURE: {"server.py": "server.py"},
    Platform.AZURE_PYTHON: {"azure_function.py": "function_app.py"},
    Platform.BENTOML: {"bentoml_service.py": "service.py"},
    Platform.CLOUD_RUN: {"server.py": "server.py", "google_function.py": "main.py"},
    Platform.LAMBDA: {"lambda_handler.py": "lambda_handler.py", "lambda_runtime.py": "lambda_runtime.py"},
    Platform.MODAL: {name: name for name in ("server.py", "modal_app.py", "modal_server.py")},
    Platform.REPLICATE: {"cog_predictor.py": "cog_predictor.py"},
    Platform.RUNPOD: {"runpod_handler.py": "runpod_handler.py"},
    Platform.RUNPOD_LB: {"server.py": "server.py"},
    Platform.SAGEMAKER: {name: name for name in ("server.py", "sagemaker_server.py")},
}
"""Which file of this folder becomes which one of the worker's."""


def files(platform: Platform, *, kserve: bool) -> dict[Path, bytes]:
    """Path in the worker's folder to content."""
    found = {Path("kit.py"): (HERE / "kit.py").read_bytes()}
    for source, name in ENTRY_POINTS[platform].items():
        found[Path(name)] = (HERE / source).read_bytes()
    folder = HERE / platform
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            found[path.relative_to(folder)] = path.read_bytes()
    if kserve:
        found[Path("kserve_v2.py")] = (HERE / "kserve_v2.py").read_bytes()
        for name in KSERVE:
            found[Path(name)] = (ROOT / name).read_bytes()
            for parent in Path(name).parents[:-1]:
                found[parent / "__init__.py"] = b""
    return found


def put(platform: Platform, folder: Path, *, kserve: bool) -> tuple[list[Path], list[Path]]:
    """Write what is not there yet. Returns what was written, and what is there and differs."""
    written, kept = [], []
    for name, content in files(platform, kserve=kserve).items():
        path = folder / name
        if path.exists():
            if path.read_bytes() != content:
                kept.append(name)
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        written.append(name)
    return written, kept


def main(
    platform: Annotated[Platform, typer.Argument(help="Where the worker will run.")],
    folder: Annotated[Path, typer.Argument(help="Where to put it.")],
    *,
    kserve: Annotated[bool, typer.Option(help="With what serves a KServe v2 model in Python.")] = False,
) -> None:
    """Put the worker kit for a platform into a folder."""
    written, kept = put(platform, folder, kserve=kserve)
    for name in written:
        typer.echo(f"wrote {folder / name}")
    for name in kept:
        typer.echo(f"kept  {folder / name}, which is another", err=True)


if __name__ == "__main__":
    typer.run(main)
