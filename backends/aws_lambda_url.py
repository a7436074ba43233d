"""AWS Lambda function URLs: the call's own HTTP request, signed or open, its answer whole or streamed.

Knows which answers are Lambda's own. There is no log tail on this way, so the worker kit's two fields
tell about cold starts and the seconds are measured here; a call that is given up runs, and is billed, to
its end all the same.

Wire facts (AWS documentation, "Invoking Lambda function URLs" and "Response streaming"):
- `https://ID.lambda-url.REGION.on.aws/`; with AuthType AWS_IAM every request is signed for `lambda`;
- the request becomes an event of 6 MB at most, in which a body that is not text is base64;
- an answer has 6 MB with InvokeMode BUFFERED, 200 MB with RESPONSE_STREAM;
- errors of the service carry `x-amzn-ErrorType`; a function that fails is a 502.
"""

import asyncio
import re
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from backends.aws_errors import lambda_refusal
from backends.aws_lambda_bill import LONGEST_S
from backends.aws_lambda_options import LambdaPrice, lambda_rent
from backends.aws_signer import AwsKeys, Signer, secrets_of
from backends.base import BackendOptions, Kit, backends
from backends.client import Answer, Exchange, Upload
from backends.elastic import ColdStart
from backends.envelope import encoded_size, overhead
from backends.instances import Ticket
from backends.outlasting import outlasting
from backends.web_endpoint import WebEndpoint, WebOptions
from gateway.errors import BackendDenied, BackendError
from gateway.options import Size
from gateway.vocab import Call, Charge, Headers, Reply, Work

PAYLOAD_LIMIT = 6 * 2**20
"""Bytes of the event that a request becomes."""

_REGION = re.compile(r"\.lambda-url\.([a-z0-9-]+)\.on\.aws$")
_TEXT = (b"text/", b"application/json", b"application/javascript", b"application/xml")


class LambdaUrlOptions(WebOptions):
    """A function of AWS Lambda, through its URL."""

    type: Literal["aws_lambda_url"]
    """Kind of backend."""
    auth: Literal["iam", "none"] = "iam"
    """AuthType of the URL; with `iam` every request is signed."""
    region: str | None = Field(default=None, pattern=r"^[a-z0-9-]+$")
    """Region of the function, where the URL does not say it."""
    credentials: AwsKeys | None = None
    """Keys to sign with."""
    memory: Size | None = None
    """Memory of the function: the price of its seconds follows from it."""
    price: LambdaPrice | None = None
    """What it costs. Without it, or without `memory`, every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "3s", "idle_after": "5m"})
    """What is known ahead about its environments; Lambda does not bill them while they idle."""

    @model_validator(mode="after")
    def _can_be_signed(self) -> Self:
        if self.auth == "iam" and self.signed_for is None:
            raise ValueError("region is needed to sign, and the url does not say it; or say auth: none")
        if self.auth == "none" and self.credentials is not None:
            raise ValueError("credentials are of no use with auth: none; take one of them out")
        return self

    @property
    def signed_for(self) -> str | None:
        """The region in the signature's scope."""
        host = self.url.split("/")[2].partition(":")[0]
        found = _REGION.search(host)
        return self.region or (found[1] if found else None)


@backends.add("aws_lambda_url")
class AwsLambdaUrl(WebEndpoint):
    """One function URL."""

    Options: ClassVar[type[BackendOptions]] = LambdaUrlOptions
    options: LambdaUrlOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, LambdaUrlOptions)
        keys = options.credentials
        rent = lambda_rent(options.price, options.memory, options.cold_start)
        super().__init__(name, options, kit, rent=rent, secrets=secrets_of(keys))
        self._signer: Signer | None = None
        if options.auth == "iam":
            region = options.signed_for or ""
            self._signer = Signer(name, keys, self.credentials, service="lambda", region=region)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of a function URL that is served at `url`."""
        secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
        return {
            "type": "aws_lambda_url",
            "url": url,
            "region": "us-east-1",
            "credentials": {"access_key": secret, "secret_key": secret},
            "memory": "1GiB",
            "max_in_flight": 4,
            "price": {"usd_per_gb_second": 0.0000166667, "usd_per_request": 0.0000002},
            "cold_start": {"expect": "3s", "idle_after": "5m"},
        }

    def cannot_carry(self, call: Call) -> str | None:
        """Too large for the event that it becomes."""
        size = call.body.length or 0
        kind = next((value for name, value in call.headers if name == b"content-type"), b"")
        if not kind.startswith(_TEXT):
            size = encoded_size(size)
        size += overhead(call)
        if size > PAYLOAD_LIMIT:
            return f"{self.name}: {size} bytes as a Lambda event, {PAYLOAD_LIMIT} are allowed"
        return None

    async def open(self) -> None:
        """Check the secrets and load the signer. Raises ConfigError when there are no credentials."""
        await super().open()
        if self._signer is not None:
            await self._signer.open()

    async def answered(self, call: Call, ticket: Ticket, held: AsyncExitStack) -> Reply:
        """The head of the answer. A call that leaves before that is waited for all the same: it is billed."""
        try:
            await call.body.read(PAYLOAD_LIMIT)  # from here on nothing is wanted of the client
        except BaseException:
            self.table.undo(ticket)  # nothing was sent
            raise
        opened = AsyncExitStack()
        try:
            exchange = await outlasting(
                self._first(call, ticket, opened),
                spawn=self.kit.spawn,
                name=f"{self.name}: invocation",
                limit_s=LONGEST_S,
                afterwards=partial(self._unclaimed, ticket, opened),
            )
        except asyncio.CancelledError:
            ticket.adopted = True
            raise
        held.push_async_callback(opened.aclose)
        return await self._reply(exchange, ticket)

    def _unclaimed(self, ticket: Ticket, opened: AsyncExitStack, ended: Exchange | BackendError) -> None:
        """An invocation whose call had gone has begun to answer, or has failed."""
        if isinstance(ended, BackendError):
            self._left(ticket, ended)
        else:
            self.kit.spawn(self._drain(ended, ticket, opened), name=f"{self.name}: invocation")

    async def _drain(self, exchange: Exchange, ticket: Ticket, opened: AsyncExitStack) -> None:
        """It ends with its answer: what it used until then is nobody's usage, so it is a charge."""
        async with opened:
            try:
                async with asyncio.timeout(LONGEST_S):
                    reply = await self._reply(exchange, ticket)
                    if reply.stream is not None:
                        async for _ in reply.stream:
                            pass
            except BackendError as error:
                self._left(ticket, error)
            except TimeoutError:
                self.lost(ticket)
            else:
                usd = None if reply.usage is None else reply.usage.usd
                self.table.owe(Charge(ticket.route, ticket.kind, usd or 0.0))

    def _left(self, ticket: Ticket, error: BackendError) -> None:
        if error.work is Work.NOT_STARTED:
            self.table.undo(ticket)
        elif error.usage is not None and ticket.closed:
            self.table.owe(Charge(ticket.route, ticket.kind, error.usage.usd or 0.0))
        else:
            self.lost(ticket)

    async def sealed(self, call: Call, address: str, fields: Headers, body: Upload) -> tuple[Headers, Upload]:
        """Signed, with the whole body in the signature."""
        if self._signer is None:
            return fields, body
        data = await call.body.read(PAYLOAD_LIMIT)
        signed = await self._signer.sign(call.method.decode("latin-1"), address, _single(fields), data)
        return signed, None if body is None else data

    def judged(self, status: int) -> bool:
        """400 and 413 too: Lambda says with them that it did not run the function."""
        return status in (400, 413) or super().judged(status)

    def refusal(self, answer: Answer) -> BackendError | None:
        """What Lambda itself said; None for whatever the function said, but that it is full."""
        if not any(name == b"x-amzn-errortype" for name, _ in answer.headers):
            # A function's own 401 says nothing of our keys.
            said = f"{self.name}: the function answered {answer.status}"
            return self.full(said, answer) if answer.status in (429, 503) else None
        refusal = lambda_refusal(self.name, answer, self.credentials, self.kit.clock.wall())
        if answer.status not in (401, 403):
            return refusal
        if self._signer is not None:
            self._signer.forget()
        return BackendDenied(str(refusal))


def _single(fields: Headers) -> Headers:
    """Each name once, as Lambda's event has them; nothing under AWS's own names but what the signer adds."""
    joined: dict[bytes, bytes] = {}
    for name, value in fields:
        if not name.startswith((b"x-amz-", b"x-amzn-requestid")):
            joined[name] = joined[name] + b"," + value if name in joined else value
    return list(joined.items())
