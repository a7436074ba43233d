"""The corpus at the whole gateway and at servers of others: it takes nothing that one of them refuses, but for
what the corpus names; and what they take and it does not is named there too, each with the reason.
"""

import asyncio
from pathlib import Path

import pytest

from tests.attacks import framing, heads
from tests.attacks.others import NGINX, NODE, nginx, node, statuses
from tests.attacks.table import Attack
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream

ATTACKS = [*framing.ATTACKS, *heads.ATTACKS]

FILE = """
backends:
  fleet: {{type: triton, replicas: ["{url}"], max_in_flight: 64, price: {{usd_per_replica_hour: 1}}}}
routes:
  r:
    policy: spill_when_full
    tiers: [{{backend: fleet, when_full: shed}}]
"""


async def ask_all(port: int, patience_s: float = 2.0) -> dict[str, list[int]]:
    room = asyncio.Semaphore(96)

    async def ask(attack: Attack) -> list[int]:
        async with room:
            return await statuses(port, attack.data, patience_s if attack.status else 1.0)

    told = await asyncio.gather(*map(ask, ATTACKS))
    return {attack.name: each for attack, each in zip(ATTACKS, told, strict=True)}


def differences(name: str, told: dict[str, list[int]]) -> tuple[set[str], set[str]]:
    """Attacks refused here and taken there, and the other way round, that the corpus does not name."""
    lenient, strict = set(), set()
    for attack in ATTACKS:
        taken = any(200 <= status < 300 for status in told[attack.name][:1])
        refused = any(status >= 400 for status in told[attack.name][:1])
        if attack.status >= 400 and taken and name not in attack.lenient:
            lenient.add(attack.name)
        if attack.status == 200 and refused and name not in attack.strict:
            strict.add(attack.name)
    return lenient, strict


async def test_the_whole_gateway_answers_as_the_corpus_says() -> None:
    async with upstream() as replica, running(FILE.format(url=replica.url)) as gateway:
        told = await ask_all(port_of(gateway), patience_s=10.0)
        for attack in ATTACKS:
            assert told[attack.name][:1] == ([attack.status] if attack.status else []), attack.name
            assert len(told[attack.name]) <= max(1, len(attack.bodies) + 1), attack.name
        arrived = [each for each in replica.received if b"/v2/health" not in each.line]
        assert len(arrived) == sum(len(attack.bodies) for attack in ATTACKS)
        assert sorted(each.body for each in arrived) == sorted(
            body for attack in ATTACKS for body in attack.bodies
        )
        for each in arrived:
            lengths, codings = each.field(b"content-length"), each.field(b"transfer-encoding")
            assert len(lengths) + len(codings) <= 1, "one framing towards the replica, written anew"
            assert len(each.field(b"host")) == 1
            for dropped in (b"upgrade", b"http2-settings", b"te", b"x-a", b"authorization", b"keep-alive"):
                assert not each.field(dropped)


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed")
async def test_beside_nginx(tmp_path: Path) -> None:
    async with upstream() as replica, nginx(tmp_path, replica.port) as port:
        lenient, strict = differences("nginx", await ask_all(port))
    assert (lenient, strict) == (set(), set())


@pytest.mark.skipif(NODE is None, reason="Node.js is not installed")
async def test_beside_node() -> None:
    async with node() as port:
        lenient, strict = differences("node", await ask_all(port))
    assert (lenient, strict) == (set(), set())
