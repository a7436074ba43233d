"""Steps 2 to 8 of a request, in order, on one page.

1 listener    has read the head and hands over an Exchange; it calls `handle`, one request of a connection
                  after the other
  caller      who calls, where the file asks for it: from the head alone, before the body is read, so that
                  nobody unknown makes the gateway take one in; what the caller may use is held against 3
2 protocol    bytes -> Call. First, because nothing can be decided about bytes that make no sense:
              malformed input is refused here, before it can take anything from anybody
3 route       by model name, from an immutable table. Before admission, because limits belong to routes
  tenant      what its tenant may use, where the file limits any: requests, tokens, places, dollars. After
              the route, whose prices say what to set aside; before the body is waited for, and before a
              place is taken that others could have. Given back when 8 books the call
4 admission   a place inside, held until the last byte. Before the pool, so that a gateway that is
              full refuses without weighing backends; and the body is waited for here, because a
              client that uploads slowly must not hold a slot meanwhile
  keys        a call with an idempotency key: carried out once. After admission, whose body is compared and
              whose place bounds how many wait; before the pool, because who waits for another's answer
              must hold no slot
5 pool        a slot, chosen by the route's policy. The slot encloses the answer: a stream counts
              as load for as long as it streams
6 dispatch    the attempt. A failure that is safe to repeat goes back to 5, told what has failed
7 relay       bytes to the client. From its first byte on there is no second attempt
8 ledger      exactly one record, on every way out
"""

import asyncio
import logging

from gateway.admission import Admission
from gateway.auth.gatekeeper import Gatekeeper
from gateway.clock import Clock
from gateway.dispatch import Dispatch
from gateway.errors import BackendError, OverspillError, Shed
from gateway.exchange import Conversation
from gateway.idempotency.keys import Claim, Keys, scope_of
from gateway.idempotency.store import Kept
from gateway.kept_fields import KeptFields
from gateway.ledger import Ledger
from gateway.protocols.base import Answer, Protocols
from gateway.record import Record
from gateway.refusals import never
from gateway.relay import Relay, passed_on
from gateway.routes import Route, RouteTable
from gateway.tenants.tenants import Tenants
from gateway.tracing.tracer import Tracer
from gateway.vocab import Call, Headers, Outcome

log = logging.getLogger("overspill.pipeline")


class Pipeline:
    """Answers one request at a time per client connection, any number of connections at once."""

    def __init__(
        self,
        *,
        protocols: Protocols,
        routes: RouteTable,
        admission: Admission,
        dispatch: Dispatch,
        relay: Relay,
        ledger: Ledger,
        clock: Clock,
        tracer: Tracer | None = None,
        gatekeeper: Gatekeeper | None = None,
        keys: Keys | None = None,
        tenants: Tenants | None = None,
    ) -> None:
        self._protocols = protocols
        self._routes = routes
        self._admission = admission
        self._dispatch = dispatch
        self._relay = relay
        self._ledger = ledger
        self._clock = clock
        self._tracer = tracer
        self._gatekeeper = gatekeeper
        self._keys = keys
        self._tenants = tenants

    def follow(
        self,
        *,
        routes: RouteTable,
        admission: Admission,
        dispatch: Dispatch,
        gatekeeper: Gatekeeper | None,
        tenants: Tenants | None,
    ) -> None:
        """From now on calls take these. Those that are inside go on by what they came in by."""
        self._routes, self._admission, self._dispatch = routes, admission, dispatch
        self._gatekeeper, self._tenants = gatekeeper, tenants

    async def handle(self, exchange: Conversation) -> None:
        """Answer one request."""
        record = self._ledger.open(exchange.request_id, exchange.traceparent, exchange.arrived)
        tracer = None if self._tracer is None else self._tracer.begin(record, exchange)
        claim: Claim | None = None
        try:
            if (gatekeeper := self._gatekeeper) is not None:
                record.caller = gatekeeper.known(exchange) or await gatekeeper.admit(exchange)
            read = await self._protocols.read(exchange)  # 2
            if isinstance(read, Answer):
                self._answer(exchange, record, read)
                return
            call = _described(_forwarded(read, exchange.peer, exchange.scheme), record)
            route, dispatch = self._routes.lookup(call, _routes_of(record)), self._dispatch  # 3
            record.route = route.name
            if record.caller is not None or self._tenants is not None:
                self._limit(call, record, route)
            with self._admission.enter(call.priority):  # 4
                if call.body.whole() is None:
                    await _arriving(call, route)
                if route.size_of is not None:
                    call.size = route.size_of(call)
                if call.idempotency_key and (keys := self._keys) is not None:
                    claim = await self._claim(keys, call, exchange, record)
                    if exchange.ended:
                        return
                attempt = dispatch.attempt(call, record)
                while attempt.again:
                    if tracer is not None:
                        tracer.attempt(record, call, attempt.failure)
                    with attempt, route.pool.slot(call, attempt) as lease:  # 5
                        slot = lease.slot or await lease.granted()
                        async with dispatch.send(
                            call, slot, attempt, record, exchange.task, lease
                        ) as reply:  # 6
                            await self._relay.copy(  # 7
                                reply,
                                exchange if claim is None else claim.around(exchange),
                                record,
                                self._ledger.cost_at_head(record, reply, self._clock.now()),
                                route.stall_timeout_s,
                            )
        except Shed as error:
            self._fail(exchange, record, never(call, route.pool.tiers) or error)
        except OverspillError as error:
            self._fail(exchange, record, error)
        except asyncio.CancelledError:
            _left(record, exchange.parting())
            raise
        except Exception:
            self._broke(exchange, record)
        finally:
            if claim is not None:
                claim.close(record)
            record.bytes_in = exchange.body.length or 0
            self._ledger.close(record, self._clock.now())  # 8
            if tracer is not None:
                tracer.end(record)

    def refuse(self, exchange: Conversation, error: OverspillError) -> None:
        """Answer and record a request that could not even be read."""
        record = self._ledger.open(exchange.request_id, exchange.traceparent, exchange.arrived)
        tracer = None if self._tracer is None else self._tracer.begin(record, exchange)
        self._fail(exchange, record, error)
        self._ledger.close(record, self._clock.now())
        if tracer is not None:
            tracer.end(record)

    def _limit(self, call: Call, record: Record, route: Route) -> None:
        """Hold the call to what its caller and its tenant may do."""
        if record.caller is not None:
            record.caller.enter(call)
        if self._tenants is not None:
            self._tenants.enter(call, record, route.pool.tiers)

    def _answer(self, exchange: Conversation, record: Record, answer: Answer) -> None:
        """An answer of the gateway's own: health, the list of models as far as the caller may use them."""
        if answer.seen_by is not None and (routes := _routes_of(record)) is not None:
            answer = answer.seen_by(routes)
        record.status = answer.status
        record.outcome = Outcome.OK if answer.status < 400 else Outcome.REJECTED
        record.inference = False
        record.first_byte_at = self._clock.now()
        exchange.send(answer.status, answer.headers, self._relay.stamp(record, None), answer.body)
        record.bytes_out = exchange.bytes_out

    async def _claim(self, keys: Keys, call: Call, exchange: Conversation, record: Record) -> Claim | None:
        """The right to carry out a call that has a key; or its answer is there, and has been sent again."""
        kept = await keys.enter(call, scope_of(record.caller))
        if not isinstance(kept, Kept):
            return kept
        record.status = kept.status
        record.outcome = Outcome.OK if kept.status < 400 else Outcome.BACKEND_REJECTED
        record.inference = False
        record.usd = 0.0
        record.first_byte_at = self._clock.now()
        extra = self._relay.stamp(record, 0.0) + b"idempotency-replayed: true\r\n"
        exchange.send(kept.status, kept.headers, extra, kept.body)
        record.bytes_out = exchange.bytes_out
        return None

    def _broke(self, exchange: Conversation, record: Record) -> None:
        log.exception("request %s failed inside the gateway", record.request_id)
        self._fail(exchange, record, OverspillError("the gateway failed; its log has the details"))

    def _fail(self, exchange: Conversation, record: Record, error: OverspillError) -> None:
        record.fail(error)
        if exchange.ended:
            return
        if exchange.began:
            # Too late for a status: a stream is told inside, and in any case never ends cleanly.
            exchange.write(self._protocols.stream_error(exchange.target, error) if record.stream else b"")
            exchange.abort(error)
            return
        exchange.keep_alive = exchange.keep_alive and not error.close
        answer = error.answer if isinstance(error, BackendError) else None
        if answer is not None and answer.body is not None and 200 <= answer.status <= 599:
            status, headers, body = answer.status, passed_on(answer.headers), answer.body
        else:
            status, headers, body = self._protocols.error(exchange.target, error)
        if status in {429, 503, 504} and not any(name == b"retry-after" for name, _ in headers):
            headers = [*headers, (b"retry-after", b"%d" % max(1, round(error.retry_after or 1.0)))]
        record.status = status
        record.first_byte_at = self._clock.now()
        exchange.send(status, headers, self._relay.stamp(record, None), body)
        record.bytes_out = exchange.bytes_out


async def _arriving(call: Call, route: Route) -> None:
    """Wait for a body, unless it is known already that there will be no slot for it: Contended."""
    route.pool.look_ahead(call)
    await call.body.settle()


def _described(call: Call, record: Record) -> Call:
    record.protocol = call.protocol
    record.operation = call.operation
    record.model = call.model
    record.inference = call.inference
    record.stream = call.stream
    return call


def _routes_of(record: Record) -> tuple[str, ...] | None:
    """What the caller may use; None: everything."""
    return None if record.caller is None else record.caller.routes


def _left(record: Record, gone: OverspillError) -> None:
    record.outcome, record.error = gone.outcome, gone.word


def _forwarded(call: Call, peer: bytes, scheme: bytes) -> Call:
    """Say for whom the gateway calls: the client's address behind those that came with the request."""
    headers: Headers = call.headers
    kept = headers if type(headers) is KeptFields else None
    if kept is not None:
        if (known := kept.known.get(scheme + peer)) is not None:
            call.headers = known
            return call
        call.headers = headers = KeptFields(kept)
    earlier, proto = b"", False
    for name, value in headers:
        if name == b"x-forwarded-for":
            earlier += value + b", "
        elif name == b"x-forwarded-proto":
            proto = True
    if earlier:
        headers[:] = [field for field in headers if field[0] != b"x-forwarded-for"]
    headers.append((b"x-forwarded-for", earlier + peer))
    if not proto:
        headers.append((b"x-forwarded-proto", scheme))
    if kept is not None:
        kept.keep(scheme + peer, headers)
    return call
