"""Over a socket: `limits.json_depth` is exact in every protocol, and what is refused reaches no backend."""

import aiohttp
import pytest

from tests.attacks.test_bodies import MODELS
from tests.support.gateways import port_of, running
from tests.support.upstream import upstream

LIMIT = 20
FILE = f"limits: {{{{json_depth: {LIMIT}}}}}\n" + MODELS


def nested(levels: int) -> bytes:
    return b"[" * levels + b"]" * levels


@pytest.mark.parametrize(
    ("path", "form", "around"),
    [
        ("/v1/chat/completions", b'{"model":"m","messages":%b}', 1),
        ("/v1/completions", b'{"model":"m","prompt":%b}', 1),
        ("/v2/models/m/infer", b'{"inputs":[%b]}', 2),
        ("/v2/models/m/generate", b'{"text_input":%b}', 1),
    ],
)
@pytest.mark.parametrize("long", [0, 300_000])
async def test_one_level_more_is_refused(path: str, form: bytes, around: int, long: int) -> None:
    deep, space = form % nested(LIMIT - around), b" " * long
    deeper = form % nested(LIMIT - around + 1)
    async with upstream() as replica, running(FILE.format(url=replica.url)) as gateway:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port_of(gateway)}") as client:
            async with client.post(path, data=space + deeper) as answer:
                assert answer.status == 400
                assert b"nested too deeply; the limit is 20 levels" in await answer.read()
            assert not [each for each in replica.received if path.encode() in each.line]
            async with client.post(path, data=space + deep) as answer:
                assert answer.status == 200
            (passed,) = [each for each in replica.received if path.encode() in each.line]
            assert passed.body == space + deep
            # What nobody looks into has no depth.
            async with client.post("/invoke/r/x", data=deeper) as answer:
                assert answer.status == 200
