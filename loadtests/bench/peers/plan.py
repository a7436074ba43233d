"""What a peer is given and what it answers with: where it goes, how it is started, or why it is absent.

Knows how programs are looked for on this machine; it must never know any one of them.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from loadtests.bench.workload import Kind, Workload

ROOT = Path(__file__).resolve().parents[3]
HOME_VARIABLE = "OVERSPILL_PEERS"
CHILD_COMES_S = 15.0


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How to start one peer: an empty `argv` means that there is nothing to start (direct).

    headers:   further fields that every request to it needs
    rewrites:  it makes answers of its own from the upstream's: they are not compared byte for byte
    child_after:  requests after which it starts, once and within `CHILD_COMES_S`, a child process that works
                  on something else than requests; 0 where it has none such
    """

    name: str
    version: str
    argv: list[str]
    port: int
    admin_port: int | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    rewrites: bool = False
    child_after: int = 0


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A peer that is absent, and the command that would bring it; empty where nothing would."""

    name: str
    why: str
    install: str = ""


@dataclass(frozen=True, kw_only=True)
class Site:
    """What a peer is given: a directory of its own, three free ports, and the upstream's ports.

    upstream_health_port:  where the upstream answers HTTP probes; another port only for gRPC
    """

    directory: Path
    port: int
    admin_port: int
    spare_port: int
    upstream_port: int
    upstream_health_port: int
    workload: Workload

    def write(self, name: str, text: str) -> Path:
        """A file of that name in the peer's directory."""
        file = self.directory / name
        file.write_text(text)
        return file


class Peer(NamedTuple):
    """One program in the comparison.

    carries:  kinds of load that it can be put under
    paths:    request paths that it knows; None for a proxy, which takes any
    """

    plan: Callable[[Site], Plan | Skipped]
    carries: frozenset[Kind]
    paths: frozenset[str] | None = None

    def fits(self, workload: Workload) -> bool:
        """Whether it can do this work at all."""
        return workload.kind in self.carries and (self.paths is None or workload.path in self.paths)


def home() -> Path:
    """Where peers are installed, each in an environment of its own: their requirements contradict."""
    return Path(os.environ.get(HOME_VARIABLE) or ROOT / ".venv-peers")


def named(variable: str, program: str, environment: str) -> str | None:
    """A program by the variable that names it, in its own environment, beside our Python, or on the PATH.

    What the variable names is believed even where it is not there, so that a typing error is told.
    """
    if wanted := os.environ.get(variable):
        return wanted
    for folder in (home() / environment / "bin", Path(sys.executable).parent):
        if os.access(folder / program, os.X_OK):
            return str(folder / program)
    return shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def absent(name: str, binary: str | None, *, install: str, variable: str) -> Skipped | None:
    """Why this binary cannot be started, or None."""
    if binary is not None and os.access(binary, os.X_OK):
        return None
    return Skipped(
        name=name,
        why=f"no executable at {binary}" if binary else f"no {name} on this machine",
        install=f"{install} (or name the program in {variable})",
    )


def from_pypi(environment: str, package: str) -> str:
    """The command that installs a Python peer where `named` looks for it."""
    return (
        f"python3 -m venv .venv-peers/{environment} && .venv-peers/{environment}/bin/pip install '{package}'"
    )


def version_of(argv: list[str]) -> str:
    """The first version number in what a program prints about itself."""
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r"\d+\.\d+\.\d+", done.stdout + done.stderr)
    return found[0] if found else "unknown"


def version_beside(binary: str, package: str) -> str:
    """The version of a Python package in the environment that this script belongs to."""
    pattern = f"../lib/python*/site-packages/{package.replace('-', '_')}-*.dist-info"
    found = sorted(Path(binary).parent.glob(pattern))
    return found[-1].name.removesuffix(".dist-info").rpartition("-")[2] if found else "unknown"
