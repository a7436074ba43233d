"""What a client that sends an `Idempotency-Key` is promised, through the whole gateway."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from gateway.vocab import Outcome
from tests.idempotency.support import BODY, serving, whole
from tests.support.wire import eventually

ONCE = "idempotent: false"
SSE = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EVENTS = b'data: {"text_output":"a"}\n\n', b'data: {"text_output":"b"}\n\n'


class Untouchable:
    """Whatever is asked of it is a defect."""


def chunked(*parts: bytes) -> bytes:
    return SSE + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


async def test_a_repeated_call_gets_the_first_answer_and_is_not_carried_out_again() -> None:
    async with serving() as field:
        first, second = await field.ask(), await field.ask()
        assert field.server.executed == 1
        assert (first[0], first[2]) == (second[0], second[2]) == (200, b'{"n":1}')
        assert b"idempotency-replayed" not in first[1]
        assert first[1][b"idempotency-kept"] == b"true"
        assert second[1][b"idempotency-replayed"] == b"true"
        assert second[1][b"content-type"] == first[1][b"content-type"]
        assert float(second[1][b"x-overspill-cost-usd"]) == 0.0
        assert b"x-overspill-backend" not in second[1]


async def test_the_books_know_a_replay_as_an_answer_that_cost_nothing_and_started_nothing() -> None:
    async with serving() as field:
        await field.ask()
        await field.ask()
        first, again = field.gateway.ledger.ended
        assert (again.outcome, again.status, again.usd) == (Outcome.OK, 200, 0.0)
        assert (again.attempts, again.backend, again.reason, again.start) == (0, "", None, None)
        assert again.route == "m"
        assert again.request_id != first.request_id
        assert field.gateway.ledger.routes["m"].served == 1


async def test_calls_without_a_key_and_with_other_keys_are_calls_of_their_own() -> None:
    async with serving() as field:
        answers = [(await field.ask(key))[2] for key in (None, None, "a", "b", "a")]
        assert field.server.executed == 4
        assert answers[2] == answers[4]


async def test_a_call_without_a_key_is_asked_nothing() -> None:
    async with serving() as field:
        field.gateway.pipeline._keys = Untouchable()  # type: ignore[assignment]
        assert (await field.ask(None))[0] == 200
        assert (await field.ask("k"))[0] == 500  # so it does notice


@pytest.mark.parametrize(
    ("body", "path", "more"),
    [
        (BODY + b" ", "infer", ""),
        (BODY, "versions/2/infer", ""),
        (BODY, "infer", "Inference-Header-Content-Length: 67\r\n"),
    ],
)
async def test_the_same_key_for_another_request_is_422(body: bytes, path: str, more: str) -> None:
    async with serving() as field:
        await field.ask()
        status, _, said = await field.ask(body=body, path=path, more=more)
        assert status == 422
        assert b"idempotency-key" in said
        assert field.server.executed == 1
        assert (await field.ask())[1][b"idempotency-replayed"] == b"true"


async def test_a_call_that_comes_while_the_first_runs_waits_for_its_answer_and_holds_no_slot() -> None:
    async with serving(gated=True) as field:
        peers = [await field.begin() for _ in range(4)]
        await eventually(lambda: field.waiting == 3, "three wait for the one")
        assert field.in_flight == field.server.executed == 1
        field.server.gate.set()
        answers = [await peer.answer() for peer in peers]
        assert {answer[2] for answer in answers} == {b'{"n":1}'}
        assert sum(b"idempotency-replayed" in answer[1] for answer in answers) == 3
        assert field.server.executed == 1


async def test_another_request_under_a_key_that_runs_is_refused_at_once() -> None:
    async with serving(gated=True) as field:
        await field.begin()
        await eventually(lambda: field.server.executed == 1, "the first call runs")
        assert (await field.ask(body=BODY + b" "))[0] == 422
        field.server.gate.set()


async def test_who_waits_for_anothers_answer_waits_no_longer_than_its_own_deadline() -> None:
    async with serving(gated=True) as field:
        await field.begin()
        await eventually(lambda: field.server.executed == 1, "the first call runs")
        status, fields, _ = await field.ask(more="X-Overspill-Deadline-Ms: 80\r\n")
        assert status == 504
        assert b"retry-after" in fields
        field.server.gate.set()
        assert (await field.ask())[0] == 200
        assert field.server.executed == 1


async def test_no_more_than_so_many_wait_for_one_call() -> None:
    async with serving(gated=True) as field:
        peers = [await field.begin() for _ in range(17)]
        await eventually(lambda: field.waiting == 16, "as many wait as may")
        status, fields, _ = await field.ask()
        assert (status, fields[b"retry-after"]) == (409, b"1")
        field.server.gate.set()
        assert {(await peer.answer())[0] for peer in peers} == {200}


async def test_the_backends_own_rejection_is_the_answer_and_is_given_again() -> None:
    async with serving(whole(b'{"error":"wrong shape"}', 400)) as field:
        first, second = await field.ask(), await field.ask()
        assert first[0] == second[0] == 400
        assert first[2] == second[2]
        assert field.server.executed == 1


async def test_what_the_gateway_sheds_is_not_remembered() -> None:
    async with serving(slots=1, gated=True) as field:
        holder = await field.begin(None)
        await eventually(lambda: field.in_flight == 1, "the only slot is taken")
        assert (await field.ask())[0] == 429
        field.server.gate.set()
        await holder.answer()
        status, fields, _ = await field.ask()
        assert status == 200
        assert b"idempotency-replayed" not in fields


@pytest.mark.parametrize("broken", [whole(b"{}", 500), None])
async def test_what_may_have_run_runs_again_where_running_twice_does_no_harm(broken: bytes | None) -> None:
    async with serving(broken, broken, broken, whole(b'{"n":2}')) as field:
        answers = [await field.ask() for _ in range(4)]
        assert answers[0][0] >= 500
        assert answers[-1][2] == b'{"n":2}'
        assert field.server.executed == 4


@pytest.mark.parametrize("broken", [whole(b"{}", 500), None])
async def test_what_may_have_run_is_never_run_again_where_it_must_not_be(broken: bytes | None) -> None:
    async with serving(broken, route=ONCE) as field:
        assert (await field.ask())[0] >= 500
        for _ in range(2):
            status, _, said = await field.ask()
            assert status == 409
            assert b"not known" in said
        assert field.server.executed == 1


async def test_a_stream_is_given_again_byte_for_byte() -> None:
    async with serving(chunked(*EVENTS)) as field:
        first = await field.ask(path="generate_stream", body=b'{"text_input":"a"}')
        second = await field.ask(path="generate_stream", body=b'{"text_input":"a"}')
        assert first[1][b"idempotency-kept"] in {b"true", b"below=1048576"}
        assert first[2] == second[2] == b"".join(EVENTS)
        assert second[1][b"content-type"] == b"text/event-stream"
        assert field.server.executed == 1


async def test_a_stream_that_broke_off_is_not_given_again() -> None:
    cut = chunked(*EVENTS)[:-5]
    async with serving(cut, chunked(*EVENTS), route="stall_timeout: 100ms") as field:
        peer = await field.begin(path="generate_stream", body=b'{"text_input":"a"}')
        assert not (await peer.rest()).endswith(b"0\r\n\r\n")
        again = await field.ask(path="generate_stream", body=b'{"text_input":"a"}')
        assert again[2] == b"".join(EVENTS)
        assert field.server.executed == 2


@pytest.mark.parametrize(("route", "status", "executed"), [("", 200, 2), (ONCE, 409, 1)])
async def test_an_answer_that_is_too_large_is_passed_on_and_said_not_to_be_kept(
    route: str, status: int, executed: int
) -> None:
    large = whole(b"x" * 2000)
    async with serving(large, route=route, section="idempotency: {max_answer: 1000}") as field:
        first = await field.ask()
        assert (len(first[2]), first[1][b"idempotency-kept"]) == (2000, b"false")
        again = await field.ask()
        assert (again[0], field.server.executed) == (status, executed)
        assert b"idempotency-replayed" not in again[1]


async def test_when_the_first_client_leaves_the_next_one_has_the_call_carried_out() -> None:
    async with serving(gated=True) as field:
        first = await field.begin()
        await eventually(lambda: field.server.executed == 1, "the first call runs")
        second = await field.begin()
        await eventually(lambda: field.waiting == 1, "the second waits")
        first.reset()
        await eventually(lambda: field.server.executed == 2, "it runs for the second")
        field.server.gate.set()
        status, fields, _ = await second.answer()
        assert status == 200
        assert b"idempotency-replayed" not in fields


async def test_when_the_first_client_leaves_and_nothing_may_run_twice_the_next_one_is_told() -> None:
    async with serving(route=ONCE, gated=True) as field:
        first = await field.begin()
        await eventually(lambda: field.server.executed == 1, "the first call runs")
        second = await field.begin()
        await eventually(lambda: field.waiting == 1, "the second waits")
        first.reset()
        assert (await second.answer())[0] == 409
        assert field.server.executed == 1
        field.server.gate.set()


@pytest.mark.parametrize("key", ["", "a b", "x" * 256, "schl\xfcssel", "a\tb"])
async def test_a_key_that_is_none_is_refused(key: str) -> None:
    async with serving() as field:
        assert (await field.ask(key))[0] == 400
        assert field.server.executed == 0


async def test_two_keys_are_refused() -> None:
    async with serving() as field:
        assert (await field.ask("a", more="Idempotency-Key: b\r\n"))[0] == 400


@pytest.mark.parametrize("key", ["x" * 255, '"8e03978e-40d5-43dd-bc93-6894a57f9324"', "!~"])
async def test_any_visible_ascii_is_a_key(key: str) -> None:
    async with serving() as field:
        await field.ask(key)
        assert (await field.ask(key))[1][b"idempotency-replayed"] == b"true"


async def test_a_body_too_large_to_be_compared_cannot_have_a_key() -> None:
    async with serving(section="idempotency: {max_request: 50}\nlimits: {body_buffer: 10}") as field:
        status, _, said = await field.ask()
        assert status == 413
        assert b"idempotency-key" in said
        assert (await field.ask(None))[0] == 200


async def test_switched_off_the_field_is_only_passed_on() -> None:
    async with serving(section="idempotency: false") as field:
        first, second = await field.ask("a b"), await field.ask("a b")
        assert field.server.executed == 2
        assert b"idempotency-kept" not in first[1]
        assert b"idempotency-replayed" not in second[1]


async def test_no_key_is_seen_in_metrics_records_or_logs(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    key = "planted-0123456789"
    async with serving(route=ONCE) as field:
        for body in (BODY, BODY, BODY + b" "):
            await field.ask(key, body)
        assert field.gateway.admin_address is not None
        host, port = field.gateway.admin_address
        async with aiohttp.ClientSession(f"http://{host}:{port}") as admin:
            async with admin.get("/metrics") as answer:
                assert key not in await answer.text()
        assert all(
            key not in str(getattr(record, name, ""))
            for record in field.gateway.ledger.ended
            for name in type(record).__slots__
        )
    assert key not in caplog.text


async def test_answers_in_a_file_outlast_the_gateway(tmp_path: Path) -> None:
    section = f"idempotency: {{store: {{sqlite: {tmp_path / 'keys'}}}}}"
    async with serving(whole(b"first"), section=section) as field:
        assert (await field.ask())[2] == b"first"
    async with serving(whole(b"second"), section=section) as field:
        status, fields, body = await field.ask()
        assert (status, body, fields[b"idempotency-replayed"]) == (200, b"first", b"true")
        assert (await field.ask("k-2"))[2] == b"second"
        assert field.server.executed == 1


async def test_two_gateways_with_one_file_carry_a_call_out_once(tmp_path: Path) -> None:
    section = f"idempotency: {{store: {{sqlite: {tmp_path / 'keys'}}}}}"
    async with (
        serving(whole(b"first"), section=section, gated=True) as one,
        serving(whole(b"second"), section=section) as two,
    ):
        first = await one.begin()
        await eventually(lambda: one.server.executed == 1, "the first gateway carries it out")
        second = await two.begin()
        await asyncio.sleep(0.1)
        one.server.gate.set()
        assert (await first.answer())[2] == (await second.answer())[2] == b"first"
        assert two.server.executed == 0


async def test_reads_have_no_use_for_a_key() -> None:
    async with serving() as field:
        for _ in range(2):
            peer = await field.begin()
            await peer.answer()
            peer.send(b"GET /v2/models/m/config HTTP/1.1\r\nHost: x\r\nIdempotency-Key: k-1\r\n\r\n")
            assert (await asyncio.wait_for(peer.answer(), 5))[0] == 200
        assert field.server.executed == 3  # one call, two reads
