"""Limits hold for all workers together, whichever of them a connection reaches."""

import asyncio
from collections import Counter
from pathlib import Path

from tests.support.wire import Peer
from tests.workers_serving.live import REQUEST, checked, serving

TENANTS = "auth: {anonymous: {tenant: acme}}\ntenants: {acme: {requests_per_minute: 6, max_concurrent: 3}}"


async def test_workers_share_a_tenants_limits(tmp_path: Path) -> None:
    async with (
        checked(0.5) as (checker, replica),
        serving(tmp_path, replica, slots=8, more=TENANTS) as served,
    ):

        async def status() -> int:
            peer = await Peer.connect(served.http)
            peer.send(REQUEST)
            return (await peer.answer())[0]

        try:
            # Two workers, each alone, would let in three at once.
            assert Counter(await asyncio.gather(*(status() for _ in range(24)))) == {200: 3, 429: 21}
            assert checker.most == 3
            assert Counter([await status() for _ in range(10)]) == {200: 3, 429: 7}
            assert checker.total == 6
            assert await served.metric("overspill_tenant_requests_total", tenant="acme", outcome="ok") == 6
            assert await served.metric("overspill_tenant_limited_total", limit="concurrency") == 21
            assert await served.metric("overspill_tenant_limited_total", limit="requests") == 7
        finally:
            await Peer.close_all()
        assert await served.stop() == 0
