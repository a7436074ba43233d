"""API keys: what the file says holds, from the moment that it says so."""

import hmac
import logging
from pathlib import Path

import pytest

from gateway.auth.key_file import KeyEntry, id_in, new_key, read_keys
from gateway.auth.keys import NOT_KNOWN, KeyRing
from gateway.clock import FakeClock
from gateway.config.problems import ConfigProblems
from gateway.errors import Unauthorised
from gateway.identity import Identity
from tests.auth.support import WALL, entry, fresh, key_file

KEY = fresh("batch")
HASH = entry("batch", KEY).hash


def ring(folder: Path, *entries: KeyEntry) -> KeyRing:
    return KeyRing(key_file(folder / "keys.yaml", *entries), FakeClock())


def refused(ring: KeyRing, text: str) -> str:
    with pytest.raises(Unauthorised) as caught:
        ring.verify(text)
    assert caught.value.challenge == 'Bearer realm="overspill", error="invalid_token"'
    assert text[8:] not in str(caught.value) or not text[8:]
    return str(caught.value)


def test_a_key_stands_for_what_its_entry_says(tmp_path: Path) -> None:
    keys = ring(tmp_path, entry("batch", KEY, tenant="acme", routes=["one"], priority="default"))
    assert keys.verify(KEY) == Identity("batch", "key", "acme", ("one",), "default", None)


@pytest.mark.parametrize(
    "wrong",
    [
        "", "ovs_", "ovs_batch_", KEY[:-1], KEY + "a", KEY[:-1] + ("a" if KEY[-1] != "a" else "b"),
        KEY.upper(), KEY.replace("batch", "other"), fresh("batch"), fresh("nobody"), HASH, "x" * 100_000,
        KEY.replace("batch", "batch_x"), KEY + "\n",
    ],
)  # fmt: skip
def test_another_text_is_nobodys_and_nothing_more_is_said(tmp_path: Path, wrong: str) -> None:
    assert refused(ring(tmp_path, entry("batch", KEY)), wrong) == NOT_KNOWN


def test_an_unknown_id_is_compared_like_a_known_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def noting(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return real(left, right)

    keys = ring(tmp_path, entry("batch", KEY))
    monkeypatch.setattr("gateway.auth.keys.hmac.compare_digest", noting)
    keys.verify(KEY)
    refused(keys, fresh("batch"))
    refused(keys, fresh("nobody"))
    refused(keys, "no key at all")
    assert compared == [(32, 32)] * 4


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"expires_at": WALL}, "expired"),
        ({"expires_at": "2020-01-01"}, "expired"),
        ({"revoked_at": "2026-01-01T00:00:00Z"}, "revoked"),
        ({"revoked_at": "2099-01-01", "expires_at": "2099-01-01"}, "revoked"),
    ],
)
def test_a_key_that_was_good_is_told_why_it_is_not(
    tmp_path: Path, more: dict[str, object], says: str
) -> None:
    keys = ring(tmp_path, entry("batch", KEY, **more))
    assert says in refused(keys, KEY)
    assert refused(keys, fresh("batch")) == NOT_KNOWN


def test_a_changed_file_counts_and_a_bad_one_does_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keys, other = ring(tmp_path, entry("batch", KEY)), fresh("other")
    changes: list[None] = []
    keys.changed = lambda: changes.append(None)
    assert not keys.has_changed()
    key_file(keys.path, entry("other", other))
    assert keys.has_changed()
    keys.take(keys.read())
    assert refused(keys, KEY) == NOT_KNOWN
    assert keys.verify(other).name == "other"
    assert len(changes) == 1
    keys.path.write_text(f"- {{id: other, hash: {other}}}\n")
    with caplog.at_level(logging.ERROR):
        keys.take(keys.read())
    assert "[0].hash: not a hash" in caplog.text
    assert other not in caplog.text
    assert keys.verify(other).name == "other"
    assert not keys.has_changed()
    keys.path.unlink()
    assert not keys.has_changed()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("keys: []", "is not a list of keys"),
        (f"- {{id: a, hash: {HASH}}}\n- {{id: a, hash: {HASH}}}", "`a` is the id of the key in line 1 too"),
        (f"- {{id: a, hash: {HASH}, scope: x}}", "`scope` is not a key here"),
        ("- {id: a}", "hash: is missing"),
        (f"- {{id: A, hash: {HASH}}}", "no id"),
        (f"- {{id: a, hash: {HASH}, expires_at: tomorrow}}", "is not a moment"),
        (f"- {{id: a, hash: {HASH}, expires_at: 2027-01-01T00:00:00}}", "is not a moment"),
        (f"- {{id: a, hash: {HASH}, priority: high}}", "it must be `critical`"),
        ("- [", "is not YAML"),
    ],
)
def test_a_bad_file_says_where_and_what(text: str, problem: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        read_keys(text, "f.yaml")
    assert problem in str(caught.value)
    assert all(each.line > 0 for each in caught.value.problems)


def test_an_empty_file_holds_no_keys() -> None:
    assert read_keys("# none yet\n", "f.yaml") == []


def test_keys_are_made_of_the_chance_given() -> None:
    assert new_key("a-b", lambda letters: letters[0]) == "ovs_a-b_" + "0" * 43
    assert id_in(fresh("a-b")) == "a-b"
    assert len({fresh("a") for _ in range(100)}) == 100
    with pytest.raises(ValueError, match="is no id"):
        new_key("a_b", lambda letters: letters[0])
