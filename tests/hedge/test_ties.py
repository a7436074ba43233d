"""What happens in one and the same moment, and backends that do not let go when they are told to."""

import asyncio
from contextlib import suppress
from types import TracebackType

import pytest

from gateway.vocab import Outcome, Reply
from tests.hedge.parts import Rig

pytestmark = pytest.mark.virtual_time


class Stubborn:
    """An exchange that answers when it is cancelled, and not before."""

    def __init__(self) -> None:
        self.closed = False

    async def __aenter__(self) -> Reply:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)
        return Reply(200, [], b"stubborn")

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.closed = True


async def test_a_client_that_leaves_in_the_moment_in_which_the_hedge_answers() -> None:
    rig = Rig()
    task = rig.start()
    answer = rig.fast.outcome

    def leaving(body: bytes) -> Reply:
        task.cancel()
        return answer(body)

    rig.fast.outcome = leaving  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await task
    await rig.settle()
    rig.assert_nothing_left()
    assert rig.hedges == {"won": 0, "lost": 1}
    (tally,) = rig.gateway.ledger.tallies.values()
    assert tally.outcome is Outcome.CLIENT_GONE


@pytest.mark.parametrize("at_once", [True, False])
async def test_a_client_that_leaves_in_the_moment_in_which_the_hedge_answers_alone(
    at_once: bool, caplog: pytest.LogCaptureFixture
) -> None:
    rig = Rig(more="hedge: {after: 950ms, share: 100%}", slow_more=", down_share: 100%")
    task = rig.start()
    answer = rig.fast.outcome

    def leaving(body: bytes) -> Reply:
        if at_once:
            task.cancel()
        else:
            asyncio.get_running_loop().call_soon(task.cancel)
        return answer(body)

    rig.fast.outcome = leaving  # type: ignore[method-assign]
    with pytest.raises(asyncio.CancelledError):
        await task
    await rig.settle()
    rig.assert_nothing_left()
    assert "failed" not in caplog.text


async def test_a_first_that_answers_although_it_lost_is_used_and_nothing_is_left_of_the_hedge() -> None:
    rig, stubborn = Rig(), Stubborn()
    rig.slow.send = lambda call, replica: stubborn  # type: ignore[method-assign,assignment,return-value]
    task = rig.start()
    answer = await task
    assert bytes(answer.wire.written).endswith(b"stubborn")
    assert answer.wire.done_times == 1
    assert task.cancelling() == 0
    assert stubborn.closed
    assert rig.hedges == {"won": 0, "lost": 1}
    await rig.settle()
    rig.assert_nothing_left()


async def test_a_hedge_that_answers_although_it_lost_is_closed() -> None:
    rig, stubborn = Rig(more="hedge: {after: 950ms, share: 100%}"), Stubborn()
    rig.fast.send = lambda call, replica: stubborn  # type: ignore[method-assign,assignment,return-value]
    answer = await rig.call()
    assert answer.field("x-overspill-backend") == "slow"
    await rig.settle()
    assert stubborn.closed
    rig.assert_nothing_left()


async def test_the_gateway_may_stop_while_a_hedge_runs() -> None:
    rig = Rig()
    task = rig.start()
    await asyncio.sleep(0.25)
    await rig.gateway.background.close(grace=0.0)
    answer = await task
    assert (answer.status, answer.field("x-overspill-backend")) == (200, "slow")
    rig.assert_nothing_left()
