"""Where the programs are that check the deployment files, and why not. `make deploy-tools` installs them."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = Path(os.environ.get("OVERSPILL_DEPLOY_TOOLS", ROOT / "build/deploy-tools")) / "bin"
CHART = ROOT / "config/helm/overspill"
COMPOSE = ROOT / "config/compose.yaml"
STACK = ROOT / "config/stack"


def find(program: str) -> str | None:
    """Its path: among the tools, else on PATH."""
    return shutil.which(program, path=str(TOOLS)) or shutil.which(program)


def needs(program: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        find(program) is None, reason=f"{program} is not there; `make deploy-tools` installs it"
    )


def run(program: str, *arguments: str | Path, given: str = "", code: int = 0) -> str:
    """What it prints on both its outputs. AssertionError where it ends with another exit code."""
    path = find(program)
    assert path is not None
    done = subprocess.run(
        [path, *map(str, arguments)],
        input=given,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, f"{program}: exit code {done.returncode}\n{done.stdout}"
    return done.stdout
