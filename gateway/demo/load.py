"""An open-loop driver: every request leaves at its own moment, whatever happened to those before it.

Latency counts from the moment a request was meant to leave, so a stalled server cannot hide its
stall by slowing the driver down (coordinated omission). Must never know what is behind the URL.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Protocol

import aiohttp

from gateway.clock import Clock
from gateway.demo.models import DIGITS, Answer, Digits, Floats
from gateway.demo.tensors import BadTensors, Message, decode_answer, encode_request, same
from gateway.vocab import Start

CONNECTIONS = 512
"""Most connections at once: more than a burst has in flight, so that the driver never queues."""

SHED = frozenset((429, 503, 504))
"""Answers by which a gateway says that it gave the request up."""


class Sample(NamedTuple):
    """What became of one request. Times in seconds from the start of the load."""

    intended: float
    finished: float
    status: int  # 0 without an answer
    backend: str
    reason: str
    start: str
    wrong: bool
    problem: str = ""  # why there is no answer, or what an answer that is not the model's says

    @property
    def latency(self) -> float:
        """Seconds from the moment it was meant to leave to the last byte of its answer."""
        return self.finished - self.intended

    @property
    def lost(self) -> bool:
        """No answer came at all."""
        return self.status == 0

    @property
    def shed(self) -> bool:
        """The gateway answered that it would not run it."""
        return self.status in SHED


class Question(NamedTuple):
    """A request, and the answer the model itself gives to it."""

    message: Message
    answer: Answer


def questions(model: Digits, images: Floats, count: int) -> list[Question]:
    """Infer requests of one to three real digits each: one half JSON, the other with binary tensors."""
    asked: list[Question] = []
    for place in range(count):
        rows = [(place * 7 + offset) % len(images) for offset in range(1 + place % 3)]
        pixels = images[rows]
        asked.append(Question(encode_request(pixels, binary=place % 2 == 1), model.answer(pixels)))
    return asked


class Watcher(Protocol):
    """Told about every request as it leaves and as it ends."""

    def left(self) -> None:
        """One more is in flight."""
        ...

    def ended(self, sample: Sample) -> None:
        """One is over."""
        ...


async def drive(
    url: str,
    moments: Sequence[float],
    asked: Sequence[Question],
    *,
    clock: Clock,
    watch: Watcher,
    timeout: float = 30.0,
) -> list[Sample]:
    """Send request i at `moments[i]` seconds from now; returns when the last has ended."""
    limits = aiohttp.ClientTimeout(total=timeout)
    connector = aiohttp.TCPConnector(limit=CONNECTIONS)
    target = f"{url}/v2/models/{DIGITS}/infer"
    samples: list[Sample] = []
    async with aiohttp.ClientSession(connector=connector, timeout=limits) as session:
        began = clock.now()

        async def one(intended: float, question: Question) -> None:
            watch.left()
            status, headers, problem = await _ask(session, target, question)
            sample = _sample(intended, clock.now() - began, status, headers, problem)
            samples.append(sample)
            watch.ended(sample)

        async with asyncio.TaskGroup() as tasks:
            for place, moment in enumerate(moments):
                # When the driver itself is late it catches up at once: the moments do not move.
                await asyncio.sleep(max(0.0, began + moment - clock.now()))
                tasks.create_task(one(moment, asked[place % len(asked)]))
    return samples


async def _ask(
    session: aiohttp.ClientSession, target: str, question: Question
) -> tuple[int, Mapping[str, str], str]:
    """One request: (status, header fields, what is wrong with it)."""
    try:
        async with session.post(
            target, data=question.message.body, headers=question.message.headers
        ) as reply:
            body = await reply.read()
            headers = {name.lower(): value for name, value in reply.headers.items()}
            if reply.status != 200:
                return reply.status, headers, f"{reply.status}: {body[:120].decode('utf-8', 'replace')}"
            return 200, headers, _difference(question.answer, headers, body)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return 0, {}, f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _difference(expected: Answer, headers: Mapping[str, str], body: bytes) -> str:
    try:
        return "" if same(decode_answer(headers, body), expected) else "another answer than the model's own"
    except BadTensors as error:
        return str(error)


def _sample(
    intended: float, finished: float, status: int, headers: Mapping[str, str], problem: str
) -> Sample:
    return Sample(
        intended,
        finished,
        status,
        headers.get("x-overspill-backend", ""),
        headers.get("x-overspill-reason", ""),
        headers.get("x-overspill-start", Start.UNKNOWN.value),
        # An error that is not the gateway's own "no" is not what the model would have said either.
        wrong=bool(problem) and status != 0 and status not in SHED,
        problem=problem,
    )
