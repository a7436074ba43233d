"""Where the gateway calls: at addresses of its file, and never where an answer or a client points."""

import re
from pathlib import Path

import pytest

from backends.http_endpoint import HttpEndpoint
from backends.modal import Modal
from gateway.errors import BackendBroke
from tests.attacks.table import get, post
from tests.attacks.test_others import FILE
from tests.support.endpoints import answer, endpoint, failure, says
from tests.support.gateways import port_of, running
from tests.support.provider import SECRET
from tests.support.upstream import upstream
from tests.support.wire import Peer

ROOT = Path(__file__).parent.parent.parent

# One address in the spellings that filters forget: the metadata service of the clouds.
HOSTS = [
    "169.254.169.254", "2852039166", "0xa9fea9fe", "0xA9.0xFE.0xA9.0xFE", "0251.0376.0251.0376", "169.254.43518",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[fe80::1]", "127.0.0.1:1", "localhost:1", "0.0.0.0", "10.0.0.1",
    "[::1]", "rebind.example", "127.0.0.1@169.254.169.254", "169.254.169.254#@127.0.0.1",
]  # fmt: skip


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("scheme", ["http://", "//", "https://"])
async def test_a_redirect_that_the_backend_itself_would_follow_leads_to_no_other_host(
    scheme: str, host: str
) -> None:
    fields = {"location": f"{scheme}{host}/latest/meta-data?__modal_function_call_id=fc-1"}
    async with endpoint(Modal, says(303, fields=fields)) as (backend, provider):
        error = None
        try:
            # What is no URL at all is the client's to make sense of.
            assert (await answer(backend)).status == 303
        except BackendBroke as broke:
            error = broke
        assert error is None or "another host" in str(error)
        assert len(provider.seen) == 1


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_any_other_redirect_is_an_answer_like_another(status: int, host: str) -> None:
    async with endpoint(HttpEndpoint, says(status, fields={"location": f"http://{host}/"})) as (
        backend,
        provider,
    ):
        reply = await answer(backend)
        assert (reply.status, dict(reply.headers)[b"location"]) == (status, f"http://{host}/".encode())
        assert len(provider.seen) == 1


def test_no_client_of_the_gateway_follows_redirects() -> None:
    said = {
        path.relative_to(ROOT): path.read_text()
        for folder in ("gateway", "backends")
        for path in (ROOT / folder).rglob("*.py")
        if not {"emulators", "demo", "workers"} & set(path.parts)
    }
    for path, text in said.items():
        assert "redirects=True" not in text, path
        assert "trust_env=True" not in text, path
        assert "urlopen" not in text, path
        if re.search(r"\.AsyncClient\(", text):
            assert "follow_redirects=False" in text, path
        if re.search(r"\bClientSession\(", text) and "def open(" in text:
            assert "allow_redirects=False" in text, path


@pytest.mark.parametrize("host", [host for host in HOSTS if "#" not in host and "@" not in host])
async def test_a_client_cannot_name_the_upstream(host: str) -> None:
    name = host.encode()
    async with upstream() as replica, running(FILE.format(url=replica.url)) as gateway:
        for data in (
            post(b"X-Forwarded-Host: " + name, b"Forwarded: host=" + name, b"Content-Length: 0"),
            post(b"X-Original-URL: http://" + name + b"/", b"X-Rewrite-URL: //" + name, b"Content-Length: 0"),
            get(b"/invoke/r/x").replace(b"Host: x", b"Host: " + name),
        ):
            peer = await Peer.connect(port_of(gateway))
            peer.send(data)
            assert (await peer.answer())[0] == 200
        arrived = [each for each in replica.received if b"/x" in each.line]
        assert len(arrived) == 3
        assert all(each.field(b"host") == [b"127.0.0.1:%d" % replica.port] for each in arrived)
        peer = await Peer.connect(port_of(gateway))
        peer.send(get(b"http://" + name + b"/invoke/r/x"))
        assert (await peer.answer())[0] == 400


async def test_a_failure_names_no_address_of_a_backend_to_its_client() -> None:
    async with endpoint(Modal, says(303, fields={"location": "http://[::1/?__modal_function_call_id=a"})) as (
        backend,
        _,
    ):
        assert (await answer(backend)).status == 303
    async with endpoint(
        Modal, says(303, fields={"location": "http://10.0.0.1/?__modal_function_call_id=a"})
    ) as (backend, _):
        assert "10.0.0.1" not in str(await failure(backend))
