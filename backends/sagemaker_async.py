"""Asynchronous endpoints of Amazon SageMaker: the bucket is asked for the answer until it is there.

The call waits in SageMaker's own queue, also while an endpoint that is scaled to zero gets its first
instance. Knows the queue and the two places of an answer; it never invokes twice. Answers are late by up
to the pause between two questions, which grows to two seconds: for work that takes much longer.

Wire facts (API references of SageMaker, "InvokeEndpointAsync", and of S3, "GetObject"; botocore's model):
- the body may be sent along, up to 128,000 bytes; the answer is 202 with the places of the output and of a
  failure, `s3://bucket/key`; whichever comes into being is the answer;
- a request that has waited for `X-Amzn-SageMaker-RequestTTLSeconds` (60 at least) is not begun any more;
- an object that is not there is a 404 for who may list the bucket, and a 403 for who may not.
Nothing says when an invocation left the queue, so that its measured seconds include its waiting.
"""

import asyncio
import contextlib
import math
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from typing import Any, ClassVar, Literal, NamedTuple, Self
from urllib.parse import quote

import msgspec
from pydantic import Field, model_validator

from backends.aws_signer import Signer
from backends.base import BackendOptions, Kit, backends
from backends.billing import ToZeroOptions, rent_by_hour
from backends.client import Answer
from backends.elastic import ColdStart, HttpUrl
from backends.envelope import to_event
from backends.sagemaker_runtime import SageMaker, SageMakerOptions
from gateway.errors import BackendBroke, BackendError
from gateway.options import Duration
from gateway.vocab import Call, Headers, Reply

INLINE_LIMIT = 128_000
"""Bytes of a body that is sent along."""
_ANSWER_LIMIT = 64 * 2**20
_ERROR_LIMIT = 2**20
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _PAUSE_GROWTH = 0.1, 2.0, 1.5
_FAILURES = 3  # in a row, until the answer is given up
_SLACK_S = 60.0
_SHORTEST_TTL_S, _LONGEST_TTL_S = 60, 21_600
_PLACE = re.compile(r"s3://([^/]+)/(.+)")
_AMZN = b"x-amzn-sagemaker-"
_RENAMED = {b"content-type": _AMZN + b"content-type", b"accept": _AMZN + b"accept"}
_WHICH = ("output", "failure")
_TARGETS = ("target_model", "target_variant", "target_container", "inference_component")


class AsyncOptions(SageMakerOptions, ToZeroOptions):
    """An asynchronous endpoint of SageMaker."""

    type: Literal["sagemaker_async"]
    """Kind of backend."""
    s3_url: HttpUrl | None = None
    """Address of S3, for emulators and private endpoints."""
    bucket_region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Region of the output's bucket, where it is not the endpoint's."""
    time_limit: Duration = 900.0
    """Longest that an invocation may run, as it is asked for."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "5m", "idle_after": "10m"})
    """What is known ahead about its instances; `idle_after` is how long scaling in waits."""
    late_binding: Literal["none"] = "none"
    """Calls wait in the endpoint's own queue."""

    @model_validator(mode="after")
    def _asynchronous(self) -> Self:
        if given := [name for name in _TARGETS if getattr(self, name) is not None]:
            raise ValueError(f"an asynchronous invocation cannot name a target; take {given[0]} out")
        if not 1 <= self.time_limit <= 3600:
            raise ValueError("time_limit has to be from 1s to 1h")
        return self


class Places(NamedTuple):
    """Where an invocation's answer comes into being. `failure` is "" where none is configured."""

    output: str
    failure: str


@backends.add("sagemaker_async")
class SageMakerAsync(SageMaker):
    """One asynchronous endpoint."""

    Options: ClassVar[type[BackendOptions]] = AsyncOptions
    body_limit = INLINE_LIMIT
    options: AsyncOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, AsyncOptions)
        super().__init__(name, options, kit, rent=rent_by_hour(options.price, options.cold_start))
        region = options.bucket_region or options.region
        self._s3_signer = Signer(name, options.credentials, self.credentials, service="s3", region=region)
        domain = "amazonaws.com.cn" if region.startswith("cn-") else "amazonaws.com"
        self._s3 = (options.s3_url or f"https://s3.{region}.{domain}").rstrip("/")
        self._async_url = self._url.removesuffix("/invocations") + "/async-invocations"

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API, and whose bucket, are served at `url`."""
        secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
        return {
            "type": "sagemaker_async",
            "endpoint": "embed",
            "region": "us-east-1",
            "endpoint_url": url,
            "s3_url": url,
            "credentials": {"access_key": secret, "secret_key": secret},
            "max_in_flight": 4,
            "price": {"usd_per_replica_hour": 1.41},
        }

    async def open(self) -> None:
        """Check the secrets and load the signers. Raises ConfigError when there are no credentials."""
        await super().open()
        await self._s3_signer.open()

    def cannot_carry(self, call: Call) -> str | None:
        """What no invocation can carry, and streams: an object is there all at once."""
        if call.stream and self.options.envelope != "event":
            return f"{self.name}: an asynchronous endpoint cannot answer with a stream"
        return super().cannot_carry(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        payload = await call.body.read(self.body_limit)
        with self.attempt(call) as ticket:
            ttl_s = self._ttl(call)
            places = await self._enqueue(call, payload, ttl_s)
            until = self.kit.clock.now() + ttl_s + self.options.time_limit + _SLACK_S
            answer = await self._fetch(places, until)
            reply = self._answer(answer, ticket, len(payload) + len(answer.body))
        yield reply

    async def _enqueue(self, call: Call, payload: bytes, ttl_s: int) -> Places:
        if self.options.envelope == "event":
            payload = msgspec.json.encode(to_event(call, payload))
        fields = self._fields(call, streaming=False)
        headers: Headers = [(_RENAMED.get(name, name), value) for name, value in fields]
        headers += [f for f in fields if f[0] == b"content-type"]
        headers.append((_AMZN + b"invocationtimeoutseconds", b"%d" % self.options.time_limit))
        headers.append((_AMZN + b"requestttlseconds", b"%d" % ttl_s))
        async with AsyncExitStack() as held:
            exchange = await self._signed(self._async_url, headers, payload, held)
            answer = Answer(exchange.status, exchange.headers, await exchange.read(_ERROR_LIMIT))
        if not 200 <= answer.status < 300:
            raise self._error(answer)
        told = {name: value.decode("latin-1") for name, value in answer.headers}
        places = [
            self._address(told.get(f"x-amzn-sagemaker-{which}location".encode(), "")) for which in _WHICH
        ]
        if not places[0]:
            raise BackendBroke(
                f"{self.name}: SageMaker took the call and did not say where its answer will be"
            )
        return Places(*places)

    def _ttl(self, call: Call) -> int:
        """Seconds for which it may wait in SageMaker's queue: not longer than its client waits."""
        left = call.deadline - self.kit.clock.now()
        if not math.isfinite(left):
            return _LONGEST_TTL_S
        return min(_LONGEST_TTL_S, max(_SHORTEST_TTL_S, math.ceil(left)))

    def _address(self, place: str) -> str:
        """Where S3 serves `s3://bucket/key`; "" for anything else. The host is the file's choice."""
        match = _PLACE.fullmatch(place)
        return f"{self._s3}/{quote(match[1], safe='')}/{quote(match[2])}" if match else ""

    async def _fetch(self, places: Places, until: float) -> Answer:
        """The output, asked for until it is there. Raises BackendBroke for a failure, and when S3 refuses."""
        pause, failures = _FIRST_PAUSE_S, 0
        while self.kit.clock.now() < until:
            try:
                if (answer := await self._object(places.output)) is not None:
                    return answer
                failed = await self._object(places.failure) if places.failure else None
                failures = 0
            except BackendBroke as error:
                failed = None
                failures += 1
                if failures > _FAILURES:
                    raise BackendBroke(f"{self.name}: lost a running call: {error}") from error
            if failed is not None:
                raise BackendBroke(f"{self.name}: the invocation failed: {self._excerpt(failed)}")
            await asyncio.sleep(pause)
            pause = min(_LONGEST_PAUSE_S, pause * _PAUSE_GROWTH)
        raise BackendBroke(f"{self.name}: neither an output nor a failure came of an invocation in time")

    def _excerpt(self, answer: Answer) -> str:
        return self.credentials.excerpt(answer.body)

    async def _object(self, url: str) -> Answer | None:
        """An object, None while it is not there. Raises BackendBroke: the work itself has begun."""
        try:
            headers = await self._s3_signer.sign("GET", url, [], b"")
            answer = await self.client.exchange("GET", url, headers=headers, limit=_ANSWER_LIMIT)
        except BackendError as error:
            raise BackendBroke(str(error)) from error
        if answer.status == 200:
            return answer
        if answer.status == 404:
            return None
        said = f"{self.name}: S3 answered {answer.status} for the answer of a call"
        if answer.status in (400, 403):
            self._s3_signer.forget()  # the keys may have expired meanwhile
            said += "; it needs s3:GetObject and s3:ListBucket"
        elif answer.status in (301, 307):
            said += "; its bucket is in another region, say so with bucket_region"
        raise BackendBroke(said)
