"""Servers of others that our backends are tried on: what each needs, and installing it (`make test-peers`).

Each gets an environment of its own below `.venv-peers`, because their requirements contradict each other.
`python -m tests.peers.recipes [NAME…]` installs what is missing; nothing else here touches the network.
"""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
HOME = Path(os.environ.get("OVERSPILL_PEERS", ROOT / ".venv-peers"))


class Recipe(NamedTuple):
    """How a peer is installed.

    packages:  of PyPI, or of npm where `node` is set; pinned, so that a failure is ours and not news
    files:     further requirement files of this repository
    """

    packages: tuple[str, ...]
    files: tuple[str, ...] = ()
    node: bool = False


RECIPES = {
    "bentoml": Recipe(("bentoml==1.4.39",)),
    "cog": Recipe(("cog==0.23.1",)),
    "kserve": Recipe(("kserve==0.21.0",)),
    "litellm": Recipe(("pytest==9.2.0", "hypothesis==6.170.15"), files=(".ci/lock/llm.txt",)),
    "mlserver": Recipe(("mlserver==1.7.1",)),
    "workers": Recipe(
        (
            "azure-functions==1.24.0",
            "bentoml==1.4.39",
            "cog==0.23.1",
            "functions-framework==3.10.2",
            "modal==1.6.4",
            "moto[server]==5.2.5",
            "runpod==1.12.0",
            "uvicorn==0.54.0",
        )
    ),
    "serverless_offline": Recipe(("serverless@3.40.0", "serverless-offline@13.10.1"), node=True),
}


def home_of(name: str) -> Path:
    """Where it is installed."""
    return HOME / name


def missing(name: str) -> str | None:
    """Why it cannot be started here, or None."""
    if (home_of(name) / ".ready").exists():
        return None
    return f"{name} is not installed below {HOME}; make test-peers does it"


def install(name: str) -> None:
    """Install it, unless it is there. Raises CalledProcessError."""
    recipe, home = RECIPES[name], home_of(name)
    if missing(name) is None:
        return
    shutil.rmtree(home, ignore_errors=True)
    if recipe.node:
        home.mkdir(parents=True)
        _run("npm", "--prefix", str(home), "install", "--silent", "--no-audit", "--no-fund", *recipe.packages)
    else:
        venv.create(home, with_pip=True)
        files = [word for file in recipe.files for word in ("-r", str(ROOT / file))]
        pip = (str(home / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "-q", "install")
        if files:
            _run(*pip, *files)
        _run(*pip, *recipe.packages)
    (home / ".ready").touch()


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def main(names: list[str]) -> int:
    """Install these, or all. One that cannot be had is told and passed over: its tests are skipped."""
    for name in names or list(RECIPES):
        try:
            install(name)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"{name} cannot be installed: {error}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
