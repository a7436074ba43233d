"""Apps and models that the emulators serve in these tests."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from typing import Any

from backends.emulators.kserve import KServeApp, Model, Tensor, TensorSpec

ALL_TYPES = (
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64",
    "BYTES",
)  # fmt: skip


class Double(Model):
    """y = 2 x, with a batch dimension."""

    name = "double"
    versions = ("1", "2")
    inputs = (TensorSpec("x", "FP32", (-1,)),)
    outputs = (TensorSpec("y", "FP32", (-1,)),)
    max_batch_size = 8

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        x = inputs["x"]
        return {"y": Tensor.of("FP32", x.shape, [2 * value for value in x.values()])}


class Same(Model):
    """Every output is its input: one tensor per datatype."""

    name = "same"
    inputs = tuple(TensorSpec(datatype.lower(), datatype, (-1,)) for datatype in ALL_TYPES)
    outputs = inputs

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return inputs


class Echo(Model):
    """One string in, the same out."""

    name = "echo"
    inputs = (TensorSpec("text", "BYTES", (1,)),)
    outputs = (TensorSpec("out", "BYTES", (1,)),)

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        return {"out": inputs["text"]}


class Fragile(Model):
    """Raises."""

    name = "fragile"
    inputs = (TensorSpec("x", "FP32", (1,)),)
    outputs = inputs

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        raise ValueError("glass")


class Writer(Model):
    """One answer per word; breaks off with an error at the word `stop`."""

    name = "writer"
    inputs = (TensorSpec("text_input", "BYTES", (1,)),)
    outputs = (TensorSpec("text_output", "BYTES", (1,)),)
    decoupled = True

    def infer(self, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        raise NotImplementedError

    def stream(self, inputs: Mapping[str, Tensor]) -> Iterator[Mapping[str, Tensor]]:
        for word in inputs["text_input"].values()[0].split():
            if word == b"stop":
                raise ValueError("stopped")
            yield {"text_output": Tensor.of("BYTES", (1,), [word])}


class Gate:
    """A blocking app that can be held: what a test controls in place of the time a model takes."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.open = threading.Event()

    def __call__(self, event: Any) -> dict[str, Any]:
        self.entered.release()
        assert self.open.wait(20), "nobody opened the gate"
        return {"echo": event["input"]}


def models() -> KServeApp:
    """The app that most tests serve."""
    return KServeApp([Double(), Same(), Echo(), Fragile(), Writer()])


def echo(
    method: str, path: str, query: str, headers: Mapping[str, str], body: bytes
) -> tuple[int, list[tuple[str, str]], bytes]:
    """An app of the worker kit that says what it was asked."""
    fields = [("content-type", "text/plain"), ("x-seen", f"{method} {path}?{query}")]
    return 200, fields, body[::-1]


async def until(condition: Any, *, within_s: float = 5.0) -> None:
    """Wait for a condition on real sockets; fails after `within_s` seconds."""
    async with asyncio.timeout(within_s):
        while not condition():
            await asyncio.sleep(0.002)
