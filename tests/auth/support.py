"""A gateway that asks who calls, in front of a replica that notes what reaches it; keys and tokens of all kinds."""

import asyncio
import json
import secrets
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from gateway.app import Gateway, load_file
from gateway.auth.key_file import KeyEntry, hash_of, new_key, write_keys
from gateway.clock import SystemClock
from gateway.config.source import Source
from tests.support.upstream import Upstream, upstream
from tests.support.wire import Peer

BODY = b'{"inputs": [{"name": "x", "shape": [1], "datatype": "FP32", "data": [0]}]}'
ISSUER = "https://login.example.com/"
WALL = 1_800_000_000.0
"""What a FakeClock shows at first."""


def entry(key_id: str, key: str, **more: Any) -> KeyEntry:
    return KeyEntry.model_validate({"id": key_id, "hash": hash_of(key), **more})


def fresh(key_id: str) -> str:
    return new_key(key_id, secrets.choice)


def key_file(path: Path, *entries: KeyEntry) -> Path:
    write_keys(entries, path)
    return path


def rsa_key(name: str = "a") -> rsa.RSAPrivateKey:
    """One for each name."""
    return _rsa_key(name)


@cache
def _rsa_key(name: str) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


@cache
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@cache
def ed_key() -> ed25519.Ed25519PrivateKey:
    return ed25519.Ed25519PrivateKey.generate()


def public(key: Any, **more: str) -> dict[str, Any]:
    """Its JWK."""
    names = {rsa.RSAPrivateKey: "RS256", ec.EllipticCurvePrivateKey: "ES256"}
    name = next((name for kind, name in names.items() if isinstance(key, kind)), "EdDSA")
    algorithm = jwt.algorithms.get_default_algorithms()[name]
    return {**json.loads(algorithm.to_jwk(key.public_key())), **more}


def pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )


def jwks(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def key_set(path: Path, name: str = "a", *, kid: str = "") -> Path:
    """A file with the public half of `rsa_key(name)`; `kid`: how it is called there, if not by its name."""
    path.write_bytes(jwks(public(rsa_key(name), kid=kid or name)))
    return path


def claims(now: float = WALL, **more: Any) -> dict[str, Any]:
    """Good ones; None takes one away."""
    given = {"iss": ISSUER, "aud": "overspill", "sub": "batch-7", "exp": now + 600, "iat": now, **more}
    return {name: value for name, value in given.items() if value is not None}


def token(body: dict[str, Any], key: Any = None, algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(body, key or rsa_key(), algorithm, headers={"kid": "a", **header})


def part(data: Any) -> str:
    """One part of a token made by hand."""
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return urlsafe_b64encode(raw).rstrip(b"=").decode()


def request(credential: str = "", *, model: str = "m", name: str = "authorization", more: str = "") -> bytes:
    shown = f"{name}: {credential}\r\n" if credential else ""
    head = f"POST /v2/models/{model}/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(BODY)}\r\n{shown}{more}\r\n"
    return head.encode("latin-1") + BODY


async def asked(gateway: Gateway, raw: bytes) -> tuple[int, dict[bytes, bytes], bytes]:
    """One request on a connection of its own."""
    assert gateway.http_address is not None
    peer = await Peer.connect(gateway.http_address.port)
    peer.send(raw)
    return await peer.answer()


def configuration(replica: Upstream, auth: str, more: str = "", grpc: bool = False) -> str:
    listen = "http: '127.0.0.1:0', admin: '127.0.0.1:0'" + (", grpc: '127.0.0.1:0'" if grpc else "")
    return f"""
version: 1
listen: {{{listen}}}
auth: {auth}
backends:
  fleet: {{type: triton, replicas: ["{replica.url}"], max_in_flight: 4, probe_every: 50ms}}
routes:
  one: {{match: {{model: m}}, tiers: [{{backend: fleet}}]}}
  two: {{match: {{model: n}}, tiers: [{{backend: fleet}}]}}
{more}
"""


@asynccontextmanager
async def guarded(
    folder: Path, auth: str, *, more: str = "", grpc: bool = False
) -> AsyncIterator[tuple[Gateway, Upstream]]:
    """A gateway with this `auth` section, read from a file as `overspill serve` does."""
    async with upstream() as replica:
        file = folder / "gateway.yaml"
        file.write_text(configuration(replica, auth, more, grpc))
        source = Source(file, load_file)
        gateway = Gateway(source.read().settings, clock=SystemClock(), chance=Random(7), source=source)
        await gateway.open()
        try:
            yield gateway, replica
        finally:
            await Peer.close_all()
            await gateway.close()
            assert gateway.ledger.open_records == 0
            assert not len(gateway.background)


def calls(replica: Upstream) -> list[Any]:
    """What reached it but for the gateway's own questions."""
    return [each for each in replica.received if each.line.startswith(b"POST")]


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.02)
