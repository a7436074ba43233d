# The `load` extra is no part of the development environment, where locust's classes are unknown to mypy.
# mypy: allow-subclassing-any, allow-untyped-decorators
"""A recorded day for locust: every request of a trace at its own moment, whatever the answers take.

    export OVERSPILL_LOAD_TRACE=burst:5:50:60s
    python -m locust -f loadtests/trace_locustfile.py --headless --host http://127.0.0.1:8000

Users of locust ask again when they were answered; here one user sends the whole trace, open loop, so that a
slow gateway is not asked less. Settings come from the environment (see loadtests/README.md). At the end it
prints how late the requests left: beyond a few milliseconds the driver was the limit.
"""

import os
import time
from array import array
from typing import Any

import gevent
from locust import FastHttpUser, events, task

from gateway.simulator.generators import open_trace
from loadtests.load_parts import Tally, chat_question, infer_body

TRACE = os.environ.get("OVERSPILL_LOAD_TRACE", "burst:5:50:60s")
SPEED = float(os.environ.get("OVERSPILL_LOAD_TRACE_SPEED", "1"))
"""Everything so many times as fast."""
SECONDS = float(os.environ.get("OVERSPILL_LOAD_TRACE_S", "inf"))
"""Of the trace; the rest is left out."""
CONNECTIONS = int(os.environ.get("OVERSPILL_LOAD_TRACE_CONNECTIONS", "1000"))
"""Requests at once; a request beyond that waits in the driver and counts as late."""
MODEL = os.environ.get("OVERSPILL_LOAD_MODEL", "digits")
INPUT = os.environ.get("OVERSPILL_LOAD_INPUT", '{"name":"pixels","datatype":"FP32","shape":[1,64]}')
CHAT_MODEL = os.environ.get("OVERSPILL_LOAD_CHAT_MODEL", "")
"""Chat requests of the trace's token counts where it is set; otherwise inferences, all alike."""


@events.init.add_listener
def attach(environment: Any, **_: Any) -> None:
    """One tally and one list of delays per test run, held by locust's environment."""
    environment.tally, environment.late_s = Tally(), array("d")


@events.test_stop.add_listener
def show(environment: Any, **_: Any) -> None:
    """Print them when the test ends."""
    print("\n".join(["", "Answers, by the gateway's own headers:", *environment.tally.lines()]))
    late = sorted(environment.late_s)
    if late:
        p99 = late[max(0, len(late) * 99 // 100 - 1)]
        print(
            f"{len(late)} requests left {1000 * p99:.1f} ms late at p99, {1000 * late[-1]:.1f} ms at most\n"
        )


class Replay(FastHttpUser):
    """The one user."""

    fixed_count = 1
    concurrency = CONNECTIONS
    connection_timeout = 10.0
    network_timeout = 600.0

    def on_start(self) -> None:
        """Read the trace before the first request."""
        self.trace = open_trace(TRACE)
        self.body = infer_body(INPUT)

    @task
    def replay(self) -> None:
        """Send everything, wait for the answers, end the test."""
        began = time.perf_counter()
        sent = []
        for number, at in enumerate(self.trace.arrivals):
            if at > SECONDS:
                break
            due = began + at / SPEED
            if (wait := due - time.perf_counter()) > 0:
                gevent.sleep(wait)
            sent.append(gevent.spawn(self._send, number, due))
        gevent.joinall(sent)
        self.environment.runner.quit()

    def _send(self, number: int, due: float) -> None:
        self.environment.late_s.append(time.perf_counter() - due)
        if CHAT_MODEL:
            sizes = {name: column[number] for name, column in self.trace.sizes.items()}
            question = chat_question(
                CHAT_MODEL,
                words_in=round(sizes.get("input_tokens", 3)),
                tokens_out=round(sizes.get("output_tokens", 64)),
                stream=False,
            )
            answer = self.client.post("/v1/chat/completions", json=question, name="chat")
        else:
            fields = {"content-type": "application/json"}
            path = f"/v2/models/{MODEL}/infer"
            answer = self.client.post(path, data=self.body, headers=fields, name="infer")
        self.environment.tally.add(answer.headers)
