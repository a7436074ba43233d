"""The operations of Replicate's API on predictions, for `remote_job.py`.

Knows the API's exchanges and statuses. It must never know what a prediction's input and output mean.

Wire facts (Replicate's OpenAPI description, "Rate limits", and its Python and JavaScript clients):
- `Prefer: wait=1..60` has a submission answered when the prediction is over, or that time is; 201 and 202
  both mean that it was made, and without the field 200 does too;
- `Cancel-After: 30s`, 5 s or more, has a prediction stopped so long after it was made, running or not
  (changelog, "Set deadlines for predictions");
- only the answer tells the id, and there is no key of one's own that would make sending twice safe;
- `GET /predictions/ID` and `POST /predictions/ID/cancel`; what is left of one is removed after an hour: 404.
  The addresses in `urls` are these, and are not used: a token goes to no host that an answer names;
- errors are `{"title", "detail", "status"}`. 402: no credit. 422: the version does not exist or the input
  does not fit it. 429: `Your rate limit resets in ~30s`, with or without `Retry-After`.
"""

import datetime
import re
from copy import copy
from typing import Any, Self

import msgspec

from backends.client import Answer
from backends.elastic import Elastic, retry_after
from backends.remote_job import JobGone, NotTold, Phase
from backends.webhooks import Webhooks
from gateway.errors import BackendBroke, BackendDenied, BackendError, BackendFull
from gateway.vocab import Headers

_GOES_ON = frozenset(("starting", "processing"))
_FAILED = frozenset(("failed", "canceled", "aborted"))
_ID = re.compile(r"[A-Za-z0-9]{1,128}")
_RESETS_IN = re.compile(rb"resets in ~?(\d{1,6})\s?s")
_MISFIT = re.compile(rb"invalid_fields|input validation failed", re.IGNORECASE)
_LONGEST_WAIT_S = 60


class Metrics(msgspec.Struct):
    """What a prediction used. `predict_time`: seconds that the model ran."""

    predict_time: float | None = None


class Prediction(msgspec.Struct):
    """A prediction as Replicate reports it. `output` is JSON as received."""

    status: str
    id: str = ""
    output: msgspec.Raw = msgspec.Raw(b"null")
    error: Any = None
    metrics: Metrics | None = None
    created_at: str | None = None
    started_at: str | None = None

    @property
    def final(self) -> bool:
        """Whether it is over. A status that is not known is taken for an end: the API has had new ones."""
        return self.status not in _GOES_ON

    @property
    def succeeded(self) -> bool:
        """Whether its output is what was asked for; by a status that is not known, if there is one."""
        if self.status == "succeeded":
            return True
        return self.final and self.status not in _FAILED and not self.error and bytes(self.output) != b"null"

    @property
    def starting_s(self) -> float | None:
        """Seconds before a worker took it: queue and start-up together."""
        created, started = _time(self.created_at), _time(self.started_at)
        return None if created is None or started is None else max(0.0, (started - created).total_seconds())

    @property
    def ran_s(self) -> float | None:
        """Seconds that the model ran."""
        seconds = self.metrics.predict_time if self.metrics is not None else None
        return None if seconds is None else max(0.0, seconds)


class InputRefused(BackendDenied):
    """The input does not fit the model. `body`: what Replicate says about it."""

    def __init__(self, message: str, body: bytes) -> None:
        super().__init__(message)
        self.body = body


class ReplicateApi:
    """One exchange each, and the meaning of a refusal.

    target:    path, below the API's address, that predictions are made with
    webhooks:  by which it is told when there is something new to be asked
    """

    submission = "predict"

    def __init__(self, owner: Elastic, url: str, target: str, webhooks: Webhooks | None = None) -> None:
        self._webhooks = webhooks
        self.name = owner.name
        self.kit = owner.kit
        self.credentials = owner.credentials
        self._client = owner.client
        self._added = owner.added
        self._url = url.rstrip("/")
        self._target = target
        self._left: int | None = None

    def within(self, seconds: int | None) -> Self:
        """The same, whose predictions Replicate stops by itself after so long."""
        other = copy(self)
        other._left = seconds
        return other

    async def ask(
        self, method: str, path: str, body: bytes | None = None, *, wait: int | None = None
    ) -> Answer:
        """One exchange, whatever its status. Raises as the client does."""
        headers: Headers = [(b"authorization", b"Bearer " + self.credentials["token"].encode())]
        if body is not None:
            headers.append((b"content-type", b"application/json"))
        if wait is not None:
            headers.append((b"prefer", b"wait=%d" % wait))
        if self._left is not None and path == self._target:
            headers.append((b"cancel-after", b"%ds" % self._left))
        headers = self._added.onto(headers, self.credentials)
        return await self._client.exchange(method, self._url + path, headers=headers, body=body)

    def refusal(self, answer: Answer) -> BackendError:
        """What a status other than 2xx means for a submission.

        Anything below 500 speaks of this gateway's request, token or account: nothing ran. From 500 on
        it may have come after the prediction was made.
        """
        said = f"{self.name}: Replicate answered {answer.status}: {self.credentials.excerpt(answer.body)}"
        if answer.status == 429:
            return BackendFull(said, retry_after=self._resets_in(answer))
        if answer.status in (401, 403):
            self.credentials.forget()
        if answer.status == 422 and _MISFIT.search(answer.body):
            return InputRefused(said, answer.body)
        if answer.status >= 500 or answer.status < 400 or answer.status == 408:
            return BackendBroke(said)
        return BackendDenied(said)

    def _resets_in(self, answer: Answer) -> float | None:
        seconds = retry_after(answer.headers, self.kit.clock.wall())
        found = _RESETS_IN.search(answer.body)
        return float(found[1]) if seconds is None and found is not None else seconds

    def read(self, answer: Answer) -> Prediction:
        """The prediction in an answer. Raises BackendBroke when it is none: the work may be under way."""
        try:
            prediction = msgspec.json.decode(answer.body, type=Prediction)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
            raise BackendBroke(f"{self.name}: Replicate's answer is no prediction") from None
        if not prediction.final and not _ID.fullmatch(prediction.id):
            raise BackendBroke(f"{self.name}: Replicate reports a prediction in progress without a usable id")
        return prediction

    async def submit(self, document: bytes, wait: float) -> Answer:
        """Have a prediction made, and wait for its end."""
        held = min(_LONGEST_WAIT_S, round(wait))
        return await self.ask("POST", self._target, document, wait=held if held > 0 else None)

    async def status(self, job: Prediction) -> Answer:
        """Ask how it is; where Replicate tells by itself, once it has, or when it has not for long."""
        if self._webhooks is not None:
            await self._webhooks.news(job.id)
        return await self.ask("GET", f"/predictions/{job.id}")

    async def cancel(self, job: Prediction) -> Answer:
        """Have it stopped."""
        return await self.ask("POST", f"/predictions/{job.id}/cancel")

    def accepted(self, answer: Answer) -> Prediction:
        """The prediction that was made."""
        if answer.status not in (200, 201, 202):
            raise self.refusal(answer)
        return self.read(answer)

    def latest(self, job: Prediction, answer: Answer) -> Prediction:
        """The prediction as it is now."""
        if answer.status == 200:
            return self.read(answer)
        if answer.status == 404:
            raise JobGone(f"{self.name}: Replicate no longer knows the prediction")
        refusal = self.refusal(answer)
        raise NotTold(str(refusal), retry_after=refusal.retry_after)

    def phase(self, job: Prediction) -> Phase:
        """Where it is."""
        if job.final:
            return Phase.FINAL
        return Phase.RUNNING if job.status == "processing" else Phase.QUEUED

    def busy_s(self, job: Prediction) -> float | None:
        """Seconds that the model ran."""
        return job.ran_s


def job_of(body: bytes) -> str | None:
    """The id of the prediction that a webhook tells of: its body is the prediction as it is."""
    try:
        prediction = msgspec.json.decode(body, type=Prediction)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return prediction.id if _ID.fullmatch(prediction.id) else None


def _time(text: str | None) -> datetime.datetime | None:
    """A point in time as the API writes it, to the microsecond or finer."""
    try:
        time = None if text is None else datetime.datetime.fromisoformat(text)
    except ValueError:
        return None
    return time if time is None or time.tzinfo is not None else time.replace(tzinfo=datetime.UTC)
