"""What the two backends for OpenAI-compatible servers share: which calls they carry, where those go, and
under which model's name.

Knows the backend contract and the sibling helpers; it must never know what a call costs or who pays.
"""

from typing import Annotated, Literal

from pydantic import Field

from backends.json_members import Renamed
from gateway.vocab import Call

API = b"/v1"
"""What the path of every call begins with."""

Operation = Literal["chat", "completions", "embeddings", "responses"]
"""What OpenAI's API can be asked for, as the gateway calls it."""

EVERY_OPERATION: tuple[Operation, ...] = ("chat", "completions", "embeddings", "responses")

Operations = Annotated[tuple[Operation, ...], Field(min_length=1)]

ModelName = Annotated[str, Field(min_length=1, max_length=512)]


def unfit(name: str, call: Call, operations: tuple[Operation, ...]) -> str | None:
    """Why a server that offers these operations could not carry the call, or None."""
    if call.protocol != "openai":
        return f"{name}: an OpenAI-compatible server takes calls of OpenAI's API only, not {call.protocol}"
    if call.operation not in operations:
        return f"{name}: does not offer {call.operation}; `operations` lists {', '.join(operations)}"
    return None


def below(base: bytes, call: Call) -> bytes:
    """The call's target with `base` in place of the API's own `/v1`."""
    return base + call.target.removeprefix(API)


def renamed(model: str | None) -> Renamed | None:
    """What puts this name into requests; None where the client's own goes out."""
    return None if model is None else Renamed("model", model)
