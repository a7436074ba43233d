"""What the pipeline sees of a client's certificate, and the dates of certificates."""

import ssl
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from gateway.certificates import BadFile, expiries, load, not_after
from gateway.clock import SystemClock
from gateway.connection import ListenerLimits
from gateway.errors import OverspillError
from gateway.exchange import Exchange
from gateway.listener import Listener
from gateway.options import SecretRef
from gateway.tls import FAILURES, PortTls, why
from tests.tls.authority import Authority, Pair
from tests.tls.support import Client


def files(pair: Pair, **more: Any) -> Any:
    plain = {"client_ca": None, "client_certificates": "none", "min_version": "1.2"}
    return SimpleNamespace(
        **{"certificate": pair.certificate, "key": SecretRef(file=pair.key), **plain, **more}
    )


class Telling:
    """Answers with the common name of whom it speaks to."""

    seen: Any = None

    async def handle(self, exchange: Exchange) -> None:
        self.seen = said = exchange.certificate
        assert exchange.certificate is said, "it is read once"
        name = "nobody" if said is None else dict(pair[0] for pair in said["subject"])["commonName"]
        exchange.send(200, [], b"", f"{exchange.scheme.decode()} {name}".encode())

    def refuse(self, exchange: Exchange, error: OverspillError) -> None:
        raise AssertionError(error)


async def test_an_exchange_knows_its_clients_certificate(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    asked = files(authority.issue("gateway"), client_ca=authority.file, client_certificates="optional")
    handler = Telling()
    port_tls = PortTls(asked, port="data port", clock=SystemClock())
    listener = Listener(handler, limits=ListenerLimits(), clock=SystemClock(), chance=Random(1), tls=port_tls)
    _, port = await listener.open("localhost", 0)
    request = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
    for shows, expected in ((None, b"https nobody"), (authority.issue("alice"), b"https alice")):
        client = await Client.connect(port, authority.client(shows))
        for _ in range(2):
            assert await client.ask(request) == (200, expected)
        await client.close()
    assert ("DNS", "alice.example") in handler.seen["subjectAltName"]
    await listener.drain(1.0)


def test_dates_are_those_that_another_reader_finds(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    for days in (-700, -1, 1, 30, 5000, 9200, 20000):
        pair = authority.issue("any", days=days)
        known = x509.load_pem_x509_certificate(pair.certificate.read_bytes()).not_valid_after_utc
        chain = pair.certificate.read_bytes() + authority.file.read_bytes()
        assert expiries(chain, "certificate", pair.certificate)[0] == known.timestamp()
        assert datetime.fromtimestamp(expiries(chain, "certificate", pair.certificate)[0], UTC) == known


@given(st.binary(max_size=200) | st.binary(max_size=200).map(lambda more: b"\x30\x82\x00\xff\x30\x20" + more))
def test_what_is_no_certificate_is_refused_in_one_way(junk: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        not_after(junk)


def test_a_damaged_certificate_has_a_date_or_is_refused(tmp_path: Path) -> None:
    pair = Authority(tmp_path).issue("any")
    der = ssl.PEM_cert_to_DER_cert(pair.certificate.read_text())
    dates = 0
    for place in range(len(der)):
        with suppress(ValueError, IndexError):
            dates += not_after(der[:place] + bytes([der[place] ^ 0xFF]) + der[place + 1 :]) > 0
        with pytest.raises((ValueError, IndexError)):
            not_after(der[:place])
    assert dates > 100


def test_every_failure_has_its_word(tmp_path: Path) -> None:
    cases = [
        ConnectionAbortedError(),
        TimeoutError(),
        ConnectionResetError(),
        ssl.SSLEOFError(),
        ssl.SSLError(),
    ]
    assert [why(each) for each in cases] == ["timeout", "timeout", "left", "left", "other"]
    assert {why(each) for each in cases} <= set(FAILURES)


def test_files_that_cannot_be_used_are_named_and_no_key_is_shown(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    pair, other = authority.issue("one"), authority.issue("two")
    encrypted = tmp_path / "encrypted.key"
    encrypted.write_text(
        "-----BEGIN ENCRYPTED PRIVATE KEY-----\nMFAwDgYDVR0PAQH/BAQDAgGG\n-----END ENCRYPTED PRIVATE KEY-----\n"
    )
    empty = tmp_path / "empty"
    empty.touch()
    wrong = (
        ({"certificate": tmp_path / "none"}, "certificate", "No such file"),
        ({"certificate": empty}, "certificate", "is empty"),
        ({"certificate": pair.key}, "certificate", "holds no certificate in PEM form"),
        ({"key": SecretRef(file=other.key)}, "key", "is not the key of"),
        ({"key": SecretRef(file=pair.certificate)}, "key", "no private key"),
        ({"key": SecretRef(file=encrypted)}, "key", str(encrypted)),
        ({"client_ca": pair.key, "client_certificates": "required"}, "client_ca", "holds no certificate"),
    )
    for change, field, words in wrong:
        with pytest.raises(BadFile, match=words) as raised:
            load(files(pair, **change))
        assert raised.value.field == field
        assert not any(line in str(raised.value) for line in pair.key.read_text().splitlines())
    good = load(files(pair))
    assert pair.key.read_text().splitlines()[1] not in repr(good)
    assert good.context.options & ssl.OP_NO_COMPRESSION
    assert good.context.options & ssl.OP_NO_RENEGOTIATION
