"""The `idempotency` section of the file. Knows its shape only, never what becomes of it."""

import os
from collections.abc import Iterator
from pathlib import Path as FilePath
from typing import Annotated, Literal

from pydantic import Field

from gateway.config.problems import Path
from gateway.config.tree import Tree
from gateway.options import Duration, Options, Size


class SqliteStore(Options):
    """Answers are kept in a file, which outlasts a restart and which all workers share."""

    sqlite: FilePath
    """The file; it is made, readable by the gateway only, where it is not there. Its folder must be."""


class Idempotency(Options):
    """How answers to calls with an `Idempotency-Key` are remembered: who repeats a call gets the same."""

    store: Literal["memory"] | SqliteStore = "memory"
    """`memory`: keys hold in one process until it ends; {sqlite: PATH}: for all workers, and across
    restarts."""
    keep: Annotated[Duration, Field(gt=0)] = 86_400.0
    """How long an answer is remembered once it is complete."""
    max_bytes: Size = Field(default=64 * 2**20, ge=2**10, le=2**40)
    """Most bytes of all answers that are remembered; beyond it the oldest are forgotten."""
    max_keys: int = Field(default=10_000, ge=1, le=10_000_000)
    """Most keys that are remembered; beyond it the oldest are forgotten."""
    max_answer: Size = Field(default=2**20, ge=1, le=2**30)
    """Answers over this size are passed on and not remembered; `idempotency-kept` says so."""
    max_request: Size = Field(default=2**20, ge=1, le=2**30)
    """Calls with a key and a body over this size are refused with 413: without all of it a body cannot be
    compared."""


def doubts(section: Idempotency | Literal[False], tree: Tree) -> Iterator[tuple[Path, str]]:
    """What is doubtful about the section as it is written: where, and why."""
    if not section:
        return
    if isinstance(section.store, SqliteStore):
        folder = section.store.sqlite.absolute().parent
        if not os.access(folder, os.W_OK):
            yield (
                ("idempotency", "store", "sqlite"),
                f"the folder {folder} is not there or cannot be written, so the gateway will not start",
            )
    elif ("idempotency", "store") in tree.keys:
        yield (
            ("idempotency", "store"),
            "`memory` holds in one process until it ends: with --workers each has keys of its own, and a "
            "repeated call may reach another; write store: {sqlite: PATH} where no call may run twice",
        )
