"""Lambda's API as it is asked about one function: signed exchanges, and what its refusals mean.

Knows addresses, keys and statuses; it must never know an instance table or what a function answers.
Nothing is sent twice, except after a refused signature: Lambda has no idempotency key for synchronous
invocations.
"""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple
from urllib.parse import quote

from backends.aws_errors import EXPIRED, error_type, lambda_refusal
from backends.aws_lambda_options import LambdaOptions, usage_of
from backends.aws_provisioned import Provisioned, read_provisioned
from backends.aws_report import read_log_result
from backends.aws_signer import Signer
from backends.client import Answer, Exchange
from backends.elastic import Elastic
from gateway.errors import BackendBroke
from gateway.vocab import Headers

PAYLOAD_LIMIT = 6 * 2**20
"""Bytes of a synchronous invocation's request, and of its response."""
_ANSWER_LIMIT = 64 * 2**20


class Opened(NamedTuple):
    """An invocation that Lambda has taken, and how to be rid of it."""

    it: Exchange
    leave: Callable[[], Awaitable[None]]


class LambdaApi:
    """One function's. `owner`: whose client, secrets and added fields are used."""

    def __init__(self, owner: Elastic, options: LambdaOptions) -> None:
        self._owner = owner
        self._options = options
        self._signer = Signer(
            owner.name, options.credentials, owner.credentials, service="lambda", region=options.region
        )
        base = (options.endpoint_url or f"https://lambda.{options.region}.amazonaws.com").rstrip("/")
        function = f"functions/{quote(options.function, safe='')}"
        query = f"?Qualifier={quote(options.qualifier, safe='')}" if options.qualifier is not None else ""
        self._url = f"{base}/2015-03-31/{function}/invocations{query}"
        self._stream_url = f"{base}/2021-11-15/{function}/response-streaming-invocations{query}"
        self._provisioned_url = f"{base}/2019-09-30/{function}/provisioned-concurrency{query}"

    async def open(self) -> None:
        """Load the signer. Raises ConfigError when there are no credentials."""
        await self._signer.open()

    async def invoke(self, payload: bytes) -> Answer:
        """A function's whole result, its failure included. Raises BackendError, with its usage if known."""
        opened = await self._taken(self._url, payload)
        try:
            return Answer(200, opened.it.headers, await opened.it.read(_ANSWER_LIMIT))
        except BackendBroke as error:
            # What it used stands in the head, which is here.
            report = read_log_result(dict(opened.it.headers).get(b"x-amz-log-result", b""))
            error.usage = None if report is None else usage_of(report, self._options)
            raise
        finally:
            await opened.leave()

    async def stream(self, payload: bytes) -> Opened:
        """A streamed invocation that Lambda has taken. Raises BackendError."""
        return await self._taken(self._stream_url, payload)

    async def dry_run(self) -> int:
        """The status of an invocation that runs nothing. Raises BackendError."""
        fields = await self._fields(self._url, b"{}", "DryRun")
        client = self._owner.client
        return (await client.exchange("POST", self._url, headers=fields, body=b"{}")).status

    async def provisioned(self) -> Provisioned | None:
        """What stands ready; None where it does not say. Raises BackendError."""
        fields = await self._signer.sign("GET", self._provisioned_url, [], b"")
        return read_provisioned(
            await self._owner.client.exchange("GET", self._provisioned_url, headers=fields)
        )

    async def _taken(self, url: str, payload: bytes) -> Opened:
        """The signed exchange; once more, with fresh credentials, if AWS says that these have expired."""
        async with AsyncExitStack() as held:
            for again in (True, False):
                fields = await self._fields(url, payload, "RequestResponse")
                opening = self._owner.client.open("POST", url, headers=fields, body=payload)
                exchange = await held.enter_async_context(opening)
                if exchange.status == 200:
                    return Opened(exchange, held.pop_all().aclose)
                refused = Answer(exchange.status, exchange.headers, await exchange.read(PAYLOAD_LIMIT))
                await held.aclose()
                if not (again and refused.status in (400, 403) and error_type(refused) in EXPIRED):
                    break
                self._signer.forget()
        owner = self._owner
        raise lambda_refusal(owner.name, refused, owner.credentials, owner.kit.clock.wall())

    async def _fields(self, url: str, payload: bytes, invocation: str) -> Headers:
        headers: Headers = [
            (b"content-type", b"application/json"),
            (b"x-amz-invocation-type", invocation.encode()),
            (b"x-amz-log-type", b"Tail" if invocation == "RequestResponse" else b"None"),
        ]
        headers = self._owner.added.onto(headers, self._owner.credentials)
        return await self._signer.sign("POST", url, headers, payload)
