"""What a request shows, and what is remembered of it."""

from typing import Any

import pytest

from gateway.auth.certificates import CertificateNames
from gateway.auth.gatekeeper import Gatekeeper
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.keys import KeyRing
from gateway.clock import FakeClock
from gateway.config.auth import ClientCertificate
from gateway.errors import Unauthorised
from gateway.identity import Identity
from gateway.kept_fields import KeptFields
from tests.auth.support import WALL, claims, entry, fresh, key_file, rsa_key, token
from tests.auth.test_tokens import KEYS, Held, options

KEY, OTHER = fresh("a"), fresh("b")
NOBODY = Identity("anonymous", "anonymous")


class Asked:
    """As much of a request as is looked at."""

    def __init__(
        self, *headers: tuple[str, str], target: str = "/v1/chat/completions", certificate: Any = None
    ):
        self.headers = [(name.encode(), value.encode("latin-1")) for name, value in headers]
        self.target = target.encode()
        self.certificate = certificate


async def admit(keeper: Gatekeeper, *headers: tuple[str, str], **more: Any) -> Identity | None:
    return await shown_to(keeper, Asked(*headers, **more))


async def shown_to(keeper: Gatekeeper, asked: Asked) -> Identity | None:
    """As the pipeline does it."""
    return keeper.known(asked) or await keeper.admit(asked)  # type: ignore[arg-type]


@pytest.fixture
def ring(tmp_path: Any) -> KeyRing:
    return KeyRing(
        key_file(tmp_path / "keys.yaml", entry("a", KEY), entry("b", OTHER, expires_at=WALL + 5)), FakeClock()
    )


@pytest.mark.parametrize(
    "headers",
    [
        [("authorization", f"Bearer {KEY}")],
        [("authorization", f"bearer   {KEY} ")],
        [("x-api-key", KEY)],
        [("api-key", KEY)],
        [("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)],
        [("authorization", "Basic dXNlcjpwYXNz"), ("x-api-key", KEY)],
    ],
)
async def test_a_credential_is_found_and_taken_away(ring: KeyRing, headers: list[tuple[str, str]]) -> None:
    keeper = Gatekeeper(clock=FakeClock(), keys=ring)
    for _ in range(2):  # the second time from memory
        asked = Asked(("accept", "*/*"), *headers, ("x-other", "1"))
        identity = await shown_to(keeper, asked)
        assert identity is not None
        assert identity.name == "a"
        rest = [
            field for field in asked.headers if field[0] != b"authorization"
        ]  # which no protocol takes on
        assert rest == [(b"accept", b"*/*"), (b"x-other", b"1")]


@pytest.mark.parametrize(
    ("headers", "invalid"),
    [
        ([], False),
        ([("authorization", "Basic dXNlcjpwYXNz")], False),
        ([("authorization", KEY)], False),
        ([("authorization", "Bearer ")], True),
        ([("x-api-key", "")], True),
        ([("x-api-key", "kéy")], True),
        ([("x-api-key", f"Bearer {KEY}")], True),
        ([("authorization", f"Bearer {KEY}"), ("x-api-key", OTHER)], True),
        ([("authorization", f"Bearer {KEY}"), ("authorization", f"Bearer {OTHER}")], True),
        ([("x-api-key", "ovs_a_" + "0" * 43)], True),
    ],
)
async def test_what_shows_nobody_is_refused(
    ring: KeyRing, headers: list[tuple[str, str]], invalid: bool
) -> None:
    with pytest.raises(Unauthorised) as caught:
        await admit(Gatekeeper(clock=FakeClock(), keys=ring), *headers)
    assert caught.value.invalid is invalid


async def test_anonymous_is_for_those_who_show_nothing_not_for_a_wrong_key(ring: KeyRing) -> None:
    keeper = Gatekeeper(clock=FakeClock(), keys=ring, anonymous=NOBODY)
    assert await admit(keeper) is NOBODY
    with pytest.raises(Unauthorised):
        await admit(keeper, ("x-api-key", "wrong"))


async def test_without_any_way_in_nobody_comes_in() -> None:
    with pytest.raises(Unauthorised):
        await admit(Gatekeeper(clock=FakeClock()), ("x-api-key", KEY))


@pytest.mark.parametrize(
    "target", ["/v2/health/live", "/v2/health/ready", "/webhooks/burst", "/grpc.health.v1.Health/Check"]
)
async def test_some_questions_are_for_everybody(ring: KeyRing, target: str) -> None:
    assert (
        await admit(Gatekeeper(clock=FakeClock(), keys=ring), ("x-api-key", "wrong"), target=target) is None
    )


@pytest.mark.parametrize(
    "target",
    ["/v2/health/live/", "/v2/health/ready/../../models/m/infer", "/V2/health/live", "//v2/health/live", "/v1/models", "/v2",
     "/v2/health/live?x", "/webhooks", "/inference.GRPCInferenceService/ModelReady"],
)  # fmt: skip
async def test_what_only_looks_so_is_not(ring: KeyRing, target: str) -> None:
    with pytest.raises(Unauthorised):
        await admit(Gatekeeper(clock=FakeClock(), keys=ring), target=target)


async def test_memory_ends_with_the_key_and_with_its_revocation(ring: KeyRing) -> None:
    clock = FakeClock()
    keeper = Gatekeeper(clock=clock, keys=ring)
    keeper.begin()
    for key in (KEY, OTHER):
        assert await admit(keeper, ("x-api-key", key)) is not None
    clock.advance(5)
    ring._clock.advance(5)  # type: ignore[attr-defined]
    with pytest.raises(Unauthorised, match="expired"):
        await admit(keeper, ("x-api-key", OTHER))
    key_file(ring.path, entry("a", KEY, revoked_at=WALL))
    assert ring.has_changed()
    ring.take(ring.read())
    with pytest.raises(Unauthorised, match="revoked"):
        await admit(keeper, ("x-api-key", KEY))


async def test_keys_and_tokens_go_side_by_side(ring: KeyRing) -> None:
    held = Held(KEYS)
    tokens = Tokens([Issuer(options(), held)], FakeClock())
    keeper = Gatekeeper(clock=FakeClock(), keys=ring, tokens=tokens)
    keeper.begin()
    good = ("authorization", f"Bearer {token(claims())}")
    for shown, kind in ((good, "token"), (("x-api-key", KEY), "key")):
        identity = await admit(keeper, shown)
        assert identity is not None
        assert identity.kind == kind
    held.keys = ()
    assert await admit(keeper, good) is not None
    assert held.changed is not None
    held.changed()  # another set of keys is in force: what they proved counts no more
    with pytest.raises(Unauthorised):
        await admit(keeper, good)
    with pytest.raises(Unauthorised):
        await admit(keeper, ("x-api-key", token(claims(), rsa_key("evil"))))


async def test_memory_is_bounded_and_holds_no_credential(ring: KeyRing) -> None:
    tokens = Tokens([Issuer(options(), Held(KEYS))], FakeClock())
    keeper = Gatekeeper(clock=FakeClock(), keys=ring, tokens=tokens)
    shown = token(claims())
    await admit(keeper, ("authorization", f"Bearer {shown}"))
    await admit(keeper, ("x-api-key", KEY))
    assert {len(each) for each in keeper._known} == {32}
    assert KEY not in repr(keeper._known)
    for number in range(5000):
        keeper._known[b"%d" % number] = NOBODY
    await admit(keeper, ("x-api-key", OTHER))
    assert len(keeper._known) <= 4096


CERTIFICATE = {
    "subject": ((("organizationName", "acme"),), (("commonName", "old-name"),)),
    "subjectAltName": (("DNS", "Batch.Example.org"), ("URI", "spiffe://example.org/batch")),
    "notAfter": "Jan 15 08:00:10 2027 GMT",
}


@pytest.mark.parametrize(
    ("known", "name"),
    [
        ({"dns": "batch.example.org"}, "batch.example.org"),
        ({"uri": "spiffe://example.org/batch"}, "spiffe://example.org/batch"),
        ({"common_name": "old-name"}, "old-name"),
        ({"dns": "example.org"}, None),
        ({"dns": "old-name"}, None),
        ({"uri": "spiffe://example.org/BATCH"}, None),
        ({"common_name": "Batch.Example.org"}, None),
        ({"email": "batch.example.org"}, None),
    ],
)
async def test_a_certificate_stands_for_who_is_named_in_it(known: dict[str, str], name: str | None) -> None:
    clock = FakeClock()
    names = CertificateNames([ClientCertificate(**known, tenant="acme", routes=["one"])], clock)
    keeper = Gatekeeper(clock=clock, certificates=names)
    if name is None:
        with pytest.raises(Unauthorised):
            await admit(keeper, certificate=CERTIFICATE)
        return
    identity = await admit(keeper, certificate=CERTIFICATE)
    assert identity == Identity(name, "certificate", "acme", ("one",), None, WALL + 10)
    clock.advance(10)
    with pytest.raises(Unauthorised, match="expired"):
        await admit(keeper, certificate=CERTIFICATE)
    with pytest.raises(Unauthorised, match="send a client certificate"):
        await admit(keeper)


class Repeated(Asked):
    """A request whose head came before, to the byte."""

    def __init__(self, headers: KeptFields) -> None:
        super().__init__()
        self.headers = headers


@pytest.mark.parametrize("name", ["x-api-key", "authorization"])
async def test_a_head_that_comes_again_is_known_for_as_long_as_its_key_is(ring: KeyRing, name: str) -> None:
    clock = FakeClock()
    keeper = Gatekeeper(clock=clock, keys=ring)
    keeper.begin()
    bearer = "Bearer " if name == "authorization" else ""
    heads = {
        key: KeptFields([(b"accept", b"*/*"), (name.encode(), f"{bearer}{key}".encode())])
        for key in (KEY, OTHER)
    }
    for key, head in heads.items():
        before = list(head)
        seen = []
        for _ in range(3):
            asked = Repeated(head)
            identity = await shown_to(keeper, asked)
            assert identity is not None
            seen.append((identity.name, dict(asked.headers).get(b"x-api-key")))
        assert seen == [("a" if key == KEY else "b", None)] * 3
        assert head == before, "it is shared by every request that has it"
    clock.advance(5)
    ring._clock.advance(5)  # type: ignore[attr-defined]
    with pytest.raises(Unauthorised, match="expired"):
        await shown_to(keeper, Repeated(heads[OTHER]))
    key_file(ring.path, entry("a", KEY, revoked_at=WALL))
    assert ring.has_changed()
    ring.take(ring.read())
    with pytest.raises(Unauthorised, match="revoked"):
        await shown_to(keeper, Repeated(heads[KEY]))


async def test_what_one_configuration_let_in_another_asks_again(ring: KeyRing) -> None:
    head = KeptFields([(b"x-api-key", KEY.encode())])
    keeper = Gatekeeper(clock=FakeClock(), keys=ring)
    keeper.begin()
    for _ in range(3):
        assert await shown_to(keeper, Repeated(head)) is not None
    with pytest.raises(Unauthorised):
        await shown_to(Gatekeeper(clock=FakeClock()), Repeated(head))
