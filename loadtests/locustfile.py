# The `load` extra is no part of the development environment, where locust's classes are unknown to mypy.
# mypy: allow-subclassing-any, allow-untyped-decorators
"""Users of the gateway for locust: KServe clients, chat clients that read a stream, and shapes that burst.

    python -m locust -f loadtests/locustfile.py --headless --host http://127.0.0.1:8000

Settings come from the environment (see loadtests/README.md). Besides locust's own table it prints, at the
end, where the answers came from, why, and how many had to wait for a cold start: the gateway's own headers.
"""

import os
import time
from typing import Any

from locust import HttpUser, LoadTestShape, between, events, task

from loadtests.load_parts import SHAPES, Swing, Tally, chat_question, infer_body

MODEL = os.environ.get("OVERSPILL_LOAD_MODEL", "digits")
INPUT = os.environ.get("OVERSPILL_LOAD_INPUT", '{"name":"pixels","datatype":"FP32","shape":[1,64]}')
"""The model's input as KServe v2 describes it, without `data`: that is filled with as many numbers."""
CHAT_MODEL = os.environ.get("OVERSPILL_LOAD_CHAT_MODEL", "")
"""No chat users where it is empty."""
SWING = Swing(
    calm=int(os.environ.get("OVERSPILL_LOAD_CALM_USERS", "4")),
    burst=int(os.environ.get("OVERSPILL_LOAD_BURST_USERS", "64")),
    calm_s=float(os.environ.get("OVERSPILL_LOAD_CALM_S", "20")),
    burst_s=float(os.environ.get("OVERSPILL_LOAD_BURST_S", "30")),
    cycles=int(os.environ.get("OVERSPILL_LOAD_CYCLES", "3")),
)
SHAPE = os.environ.get("OVERSPILL_LOAD_SHAPE", "burst")
if SHAPE not in SHAPES:
    raise SystemExit(f"OVERSPILL_LOAD_SHAPE is {SHAPE!r}; there are {', '.join(SHAPES)}")


@events.init.add_listener
def attach(environment: Any, **_: Any) -> None:
    """One tally per test run, held by locust's environment."""
    environment.tally = Tally()


@events.test_stop.add_listener
def show(environment: Any, **_: Any) -> None:
    """Print it when the test ends."""
    print("\n".join(["", "Answers, by the gateway's own headers:", *environment.tally.lines(), ""]))


class InferUser(HttpUser):
    """A KServe v2 client that asks, reads, and thinks for a moment."""

    wait_time = between(0.01, 0.05)
    weight = 4

    def on_start(self) -> None:
        """The body is built once: the test is of the gateway, not of a JSON encoder."""
        self.body = infer_body(INPUT)

    @task
    def infer(self) -> None:
        """One inference."""
        with self.client.post(
            f"/v2/models/{MODEL}/infer",
            data=self.body,
            headers={"content-type": "application/json"},
            name="infer",
            catch_response=True,
        ) as response:
            self.environment.tally.add(response.headers)
            if response.ok and b'"outputs"' not in response.content:
                response.failure("an answer without outputs")


class ChatUser(HttpUser):
    """An OpenAI client that reads a streamed answer; the first event and the whole stream are timed apart."""

    wait_time = between(0.5, 2)
    weight = 1 if CHAT_MODEL else 0
    abstract = not CHAT_MODEL

    @task
    def chat(self) -> None:
        """One streamed completion, read to its end."""
        question = chat_question(CHAT_MODEL)
        began = time.perf_counter()
        first_ms = None
        done = False
        with self.client.post(
            "/v1/chat/completions", json=question, name="chat", stream=True, catch_response=True
        ) as response:
            self.environment.tally.add(response.headers)
            if not response.ok:
                return  # locust counts it by its status
            for line in response.iter_lines():
                if line.startswith(b"data:"):
                    if first_ms is None:
                        first_ms = (time.perf_counter() - began) * 1000
                    done = line[5:].strip() == b"[DONE]"
            if not done:
                response.failure("the stream ended without [DONE]")
        self._report("chat, first event", first_ms)
        self._report("chat, whole stream", (time.perf_counter() - began) * 1000 if done else None)

    def _report(self, name: str, milliseconds: float | None) -> None:
        if milliseconds is not None:
            self.environment.events.request.fire(
                request_type="SSE",
                name=name,
                response_time=milliseconds,
                response_length=0,
                exception=None,
                context={},
            )


class Bursting(LoadTestShape):
    """Few users and many in turn: what fills the warm fleet and what must spill."""

    use_common_options = False

    def tick(self) -> tuple[int, float] | None:
        """Users wanted now, and how many may start per second; None ends the test."""
        users = SHAPES[SHAPE](self.get_run_time(), SWING)
        return None if users is None else (users, float(SWING.burst))
