"""Replicate: one prediction per call, its output turned back into an HTTP answer.

Knows what a prediction's output, times and failure mean for a call; remote_job carries it through. It never
makes a prediction twice: ids are Replicate's, so sending again could run the work twice.

Wire facts (Replicate's documentation, "Deployments", "Billing", "Output files"; its OpenAPI description):
- a prediction that is `starting` for longer than a few seconds is waiting for a worker to be started; it may
  be waiting for one that is busy just as well, which the API does not tell apart;
- `metrics.predict_time` are the seconds that the model ran. They are what a public model bills; a deployment,
  and a private model, bills its instances' whole life, start-up and idling included;
- files in an output are URLs on `replicate.delivery`, good for an hour: they are passed on as they are.
The API is asked, or tells by `webhook` when to ask (`webhooks.py`). Streams of the API's own events are not
offered. Not documented: the largest input, so `max_input` says it.
"""

import contextlib
from asyncio import timeout
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Annotated, Any, ClassVar, Literal, Self

import msgspec
from pydantic import Field, model_validator

from backends.base import BackendOptions, Kit, backends
from backends.elastic import ColdStart, Elastic, ElasticOptions, HttpUrl, check_envelope, start_by_boot
from backends.envelope import encoded_size, overhead, to_event, unfit_for_raw
from backends.instances import Boot, Span, Ticket, take_boot
from backends.pings import Pinged
from backends.remote_job import CONTROL_S, JobRun
from backends.replicate_api import InputRefused, Prediction, ReplicateApi, job_of
from backends.time_left import time_left
from backends.webhooks import SECRET_KEY, WebhookOptions, Webhooks
from backends.worker_answer import hear
from gateway.errors import BackendBroke, BackendError
from gateway.options import Duration, Options, SecretRef, Size, Usd
from gateway.vocab import Call, Headers, Rent, Reply, Start, Usage

_A_FEW_SECONDS = 3.0
_LONGEST_PING_S = 60.0
_JSON: Headers = [(b"content-type", b"application/json")]
_NOT_JSON = b'{"error":"the body must be a JSON object: it is sent as the input of a Replicate prediction"}'

_Pair = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]+/[A-Za-z0-9._-]+$")]


class ReplicatePrice(Options):
    """What it costs."""

    usd_per_second: Usd = 0.0
    """Price of one second of the hardware."""
    usd_per_request: Usd = 0.0
    """Price of one prediction, on top of its seconds."""

    @model_validator(mode="after")
    def _some_price(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("says no price; give at least one of usd_per_second, usd_per_request")
        return self


class ReplicateOptions(ElasticOptions):
    """A deployment, a version or an official model of Replicate."""

    type: Literal["replicate"]
    """Kind of backend."""
    token: SecretRef
    """API token, by reference."""
    deployment: _Pair | None = None
    """Deployment, as OWNER/NAME."""
    version: str | None = Field(default=None, pattern=r"^([A-Za-z0-9._-]+/[A-Za-z0-9._-]+:)?[A-Za-z0-9]+$")
    """Id of a model's version, instead."""
    model: _Pair | None = None
    """An official model, as OWNER/NAME, instead."""
    base_url: HttpUrl = "https://api.replicate.com/v1"
    """Address of the API."""
    envelope: Literal["event", "raw"] = "event"
    """`event` carries the whole HTTP request to the worker kit, as JSON text in the input `event`; `raw`
    sends the JSON body as the input of a model that exists already, and answers with its output."""
    wait: Annotated[Duration, Field(ge=0, le=60)] = 5.0
    """How long a submission may wait for the end before polling starts; whole seconds. A prediction cannot
    be cancelled before it is answered."""
    max_input: Size = 5 * 2**20
    """Largest document that a prediction is made with; larger calls are never sent there."""
    webhook: WebhookOptions | None = None
    """Have Replicate tell that a prediction is over, like `{url: https://gateway.example.com, secret: {env:
    REPLICATE_WEBHOOK_SECRET}}`; it calls /webhooks/NAME there. Left out, it is only asked."""
    billing: Literal["instance", "prediction"] | None = None
    """`instance`: an instance is paid from start to end, idling included; `prediction`: only while the model
    runs. Left out: by the instance for a deployment, else by the prediction."""
    price: ReplicatePrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "60s", "idle_after": "60s"})
    """What is known ahead about its instances."""

    @model_validator(mode="after")
    def _one_of_three(self) -> Self:
        if sum(one is not None for one in (self.deployment, self.version, self.model)) != 1:
            raise ValueError("give exactly one of deployment, version and model")
        check_envelope(self, self.envelope)
        return self

    def bills_instances(self) -> bool:
        """Whether it is an instance's life that is paid."""
        return self.deployment is not None if self.billing is None else self.billing == "instance"

    def target(self) -> str:
        """Where predictions are made."""
        if self.deployment is not None:
            return f"/deployments/{self.deployment}/predictions"
        return "/predictions" if self.model is None else f"/models/{self.model}/predictions"


@backends.add("replicate")
class Replicate(Elastic):
    """One deployment, version or model."""

    Options: ClassVar[type[BackendOptions]] = ReplicateOptions
    options: ReplicateOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ReplicateOptions)
        price, cold, bills = options.price, options.cold_start, options.bills_instances()
        rent = Rent(
            price.usd_per_second if price else None,
            usd_per_call=price.usd_per_request if price else 0.0,
            idle_s=cold.idle_after,
            boot_s=cold.expect,
            bills_boot=bills,
            bills_idle=bills,
        )
        secrets = {"token": options.token}
        if options.webhook is not None:
            secrets[SECRET_KEY] = options.webhook.secret
        super().__init__(name, options, kit, rent=rent, secrets=secrets)
        self._webhooks = None if options.webhook is None else Webhooks(
            name, options.webhook, self.credentials, kit.clock, job_of=job_of
        )  # fmt: skip
        self._api = ReplicateApi(self, options.base_url, options.target(), self._webhooks)
        self._cold_delay = min(_A_FEW_SECONDS, cold.expect / 4)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a deployment whose API is served at `url`."""
        return {
            "type": "replicate",
            "token": {"env": "OVERSPILL_EXAMPLE_SECRET"},
            "deployment": "acme/minilm",
            "base_url": f"{url}/v1",
            "max_in_flight": 4,
            "price": {"usd_per_second": 0.000225},
            "cold_start": {"expect": "60s", "idle_after": "60s"},
        }

    def usage(self, span: Span, boot_s: float | None, instance: str, *, reported: bool) -> Usage:
        """By the prediction, the seconds of start-up are nobody's."""
        if self.options.bills_instances():
            return super().usage(span, boot_s, instance, reported=reported)
        return Usage(span.busy_s, boot_s, self.price(span.busy_s), instance, reported)

    async def open(self) -> None:
        """Check the secrets. Raises ConfigError."""
        await super().open()
        if self._webhooks is not None:
            self._webhooks.check()

    @property
    def webhook(self) -> Callable[[Headers, bytes], tuple[int, str]] | None:
        """What Replicate tells of predictions."""
        return None if self._webhooks is None else self._webhooks.take

    @property
    def can_open(self) -> bool:
        """Only where the worker kit, or something like it, answers."""
        return super().can_open and self.options.envelope == "event"

    def cannot_carry(self, call: Call) -> str | None:
        """Too large, or, with `envelope: raw`, no JSON document in and out."""
        size = call.body.length or 0
        if self.options.envelope == "event":
            size = encoded_size(size) + 2 * overhead(call)
        else:
            if (why := unfit_for_raw(call)) is not None:
                return f"{self.name}: {why}"
            size += 1024
        if size > self.options.max_input:
            return f"{self.name}: {size} bytes as a prediction, {self.options.max_input} are allowed"
        return None

    def send(self, call: Call, replica: int) -> AbstractAsyncContextManager[Reply]:
        """One prediction. The answer is complete when it is there, so leaving has nothing to release."""
        return self._send(call)

    @contextlib.asynccontextmanager
    async def _send(self, call: Call) -> AsyncIterator[Reply]:
        body = await call.body.read(self.options.max_input)
        document = self._document(call, body)
        if document is None:
            yield Reply(400, _JSON, _NOT_JSON)
            return
        with self.attempt(call) as ticket:
            try:
                api = self._api.within(time_left(call, self.kit.clock, least=5))
                prediction = await JobRun(api, self.table, ticket).result(document, self.options.wait)
            except InputRefused as refused:
                if self.options.envelope == "event":
                    raise  # the model is not the worker kit's
                self.table.undo(ticket)
                reply = Reply(422, _JSON, refused.body)
            else:
                reply = self._answer(prediction, ticket)
        yield reply

    def _document(self, call: Call, body: bytes) -> bytes | None:
        """What a prediction is made with; None when the body is not the JSON object that `raw` needs."""
        content: Mapping[str, Any]
        if self.options.envelope == "event":
            content = {"event": msgspec.json.encode(to_event(call, body)).decode()}
        else:
            try:
                content = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                return None
        document: dict[str, Any] = {"input": content}
        if self.options.version is not None:
            document["version"] = self.options.version
        if self._webhooks is not None:
            document |= {"webhook": self._webhooks.address, "webhook_events_filter": ["start", "completed"]}
        return msgspec.json.encode(document)

    def _answer(self, prediction: Prediction, ticket: Ticket) -> Reply:
        """The client's answer from a prediction that is final. Raises BackendBroke unless it succeeded."""
        now = self.kit.clock.now()
        heard = hear(lambda: self._output(prediction), kit=self.options.envelope == "event")
        start, boot_s, instance = self._judge(prediction, heard.boot, now, now - ticket.began)
        span = self.table.end(ticket, now, instance_id=instance, boot_s=boot_s, busy_s=prediction.ran_s)
        usage = self.usage(span, boot_s, instance, reported=prediction.ran_s is not None)
        if not self.options.bills_instances() and (ran_s := prediction.ran_s) is not None:
            # Each by itself, whatever else ran in the same instance.
            usage = usage._replace(billed_s=ran_s, usd=self.price(ran_s))
        return heard.reply(start, usage)

    def _output(self, prediction: Prediction) -> tuple[int, Headers, bytes]:
        if not prediction.succeeded:
            why = self.credentials.excerpt(str(prediction.error or ""))
            said = f"{self.name}: the prediction ended as {self.credentials.excerpt(prediction.status)}"
            raise BackendBroke(said + (f": {why}" if why else ""))
        if self.options.envelope == "raw":
            return 200, _JSON, bytes(prediction.output)
        try:
            result = msgspec.json.decode(prediction.output)
            if isinstance(result, str):  # a predictor's output has one type: text, in the worker kit's
                result = msgspec.json.decode(result)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: the prediction's output is no result of a worker") from None
        return self.unpack(result)

    def _judge(
        self, prediction: Prediction, boot: Boot | None, now: float, elapsed: float
    ) -> tuple[Start, float | None, str]:
        """Warm or cold, seconds of start-up, and the instance's name, from all that came back.

        The worker's own word comes first. Without it, what Replicate says of the status `starting`.
        """
        instance = boot.id if boot else ""
        starting = prediction.starting_s
        if boot is not None:
            start = start_by_boot(boot, elapsed, seen=self.table.knows(instance, now))
        elif starting is None:
            return Start.UNKNOWN, None, instance
        else:
            start = Start.COLD if starting > self._cold_delay else Start.WARM
        if start is Start.COLD:
            known = starting if starting is not None else max(0.0, elapsed - (prediction.ran_s or 0.0))
            return start, known, instance
        return start, 0.0, instance

    async def send_ping(self, call: Call, ticket: Ticket) -> Pinged:
        """One prediction. Nothing is gained by a short wait: its answer is what is waited for."""
        document = self._document(call, b"")
        assert document is not None  # of an event there is always one
        wait = max(self.options.wait, min(self.options.cold_start.expect, _LONGEST_PING_S))
        prediction = await JobRun(self._api, self.table, ticket).result(document, wait)
        status, headers, _ = self._output(prediction)
        if status >= 500:
            raise BackendBroke(f"{self.name}: a worker answered a ping with {status}")
        boot = take_boot(headers)[1]
        now = self.kit.clock.now()
        start, boot_s, instance = self._judge(prediction, boot, now, now - ticket.began)
        return Pinged(instance, start, boot_s, boot.age if boot else None, prediction.ran_s)

    async def probe(self, replica: int) -> bool | None:
        """Ask for the deployment or the model, which is free. There is no such question about a version."""
        if self.options.version is not None:
            return None
        path = self.options.target().removesuffix("/predictions")
        try:
            async with timeout(CONTROL_S):
                answer = await self._api.ask("GET", path)
        except (BackendError, TimeoutError):
            return False
        # Too many questions, or trouble with this one question, say nothing about predictions.
        return True if answer.status == 200 else False if answer.status in (401, 403, 404) else None
