"""Paths at the whole gateway: what a replica may see of them."""

import asyncio

from tests.attacks.others import statuses
from tests.attacks.targets import ATTACKS, METHODS
from tests.attacks.test_others import FILE
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream


async def test_odd_targets_are_refused_rather_than_repaired_and_the_rest_goes_on_as_it_came() -> None:
    async with upstream() as replica, running(FILE.format(url=replica.url)) as gateway:
        rows = [*ATTACKS, *METHODS]
        told = await asyncio.gather(*(statuses(port_of(gateway), attack.data) for attack in rows))
        wrong = {
            attack.name: (each, attack.status, attack.rule)
            for attack, each in zip(rows, told, strict=True)
            if each != [attack.status]
        }
        assert not wrong
        seen = {each.line.split(b" ")[1] for each in replica.received if b"/v2/" not in each.line}
        sent = {attack.data.split(b" ")[1] for attack in ATTACKS if attack.status == 200}
        assert seen == {target.removeprefix(b"/invoke/r") or b"/" for target in sent}
