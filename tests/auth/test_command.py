"""`overspill keys`."""

import json
import stat
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gateway.auth.key_file import read_keys
from gateway.cli import command


def keys(*arguments: str, given: str = "") -> Result:
    return CliRunner().invoke(command, ["keys", *arguments], input=given)


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    made = keys(
        "create", "-f", str(file), "--id", "batch", "--tenant", "acme", "--route", "a", "--route", "b",
        "--priority", "default", "--expires", "90d", "--note", "night jobs",
    )  # fmt: skip
    assert made.exit_code == 0
    key = made.stdout.strip()
    assert key.startswith("ovs_batch_")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [each.name for each in tmp_path.iterdir()] == ["keys.yaml"]
    text = file.read_text()
    assert key not in text
    assert key[10:] not in text
    (entry,) = read_keys(text, "f")
    assert (entry.tenant, entry.routes, entry.note) == ("acme", ["a", "b"], "night jobs")
    listed = keys("list", "-f", str(file))
    assert "batch" in listed.stdout
    assert "acme" in listed.stdout
    for shown in (listed.output, keys("list", "-f", str(file), "--json").output):
        assert entry.hash.removeprefix("sha256:")[:12] not in shown
        assert key[10:] not in shown
    checked = keys("check", "-f", str(file), "--stdin", given=key + "\n")
    assert (checked.exit_code, checked.stdout) == (0, "key batch: good\n")
    wrong = key[:-1] + ("a" if key[-1] != "a" else "b")
    assert keys("check", "-f", str(file), "--stdin", given=wrong).exit_code == 1
    assert keys("check", "-f", str(file)).stdout.endswith("good: 1 of 1 keys can be used\n")


def test_a_revoked_key_stays_in_the_list(tmp_path: Path) -> None:
    file = str(tmp_path / "keys.yaml")
    key = keys("create", "-f", file, "--id", "a").stdout.strip()
    other = keys("create", "-f", file).stdout.strip()
    assert keys("revoke", "a", "-f", file).exit_code == 0
    assert "already" in keys("revoke", "a", "-f", file).output
    states = {row["id"]: row["state"] for row in json.loads(keys("list", "-f", file, "--json").stdout)}
    assert states == {"a": "revoked", other.split("_")[1]: "good"}
    checked = keys("check", "-f", file, "--stdin", given=key)
    assert (checked.exit_code, checked.stdout) == (1, "key a: revoked\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["create", "--id", "Batch"], "is no id"),
        (["create", "--id", "there"], "already"),
        (["create", "--tenant", "a b"], "tenant"),
        (["create", "--expires", "soon"], "neither a duration"),
        (["create", "--expires", "2001-01-01"], "over already"),
        (["create", "--expires", "999999999999d"], "too far away"),
        (["revoke", "nobody"], "known are: there"),
    ],
)
def test_what_cannot_be_done_changes_nothing(tmp_path: Path, arguments: list[str], says: str) -> None:
    file = tmp_path / "keys.yaml"
    keys("create", "-f", str(file), "--id", "there")
    before = file.read_bytes()
    told = keys(*arguments, "-f", str(file))
    assert told.exit_code == 2
    assert says in told.stderr
    assert told.stdout == ""
    assert file.read_bytes() == before


def test_a_file_that_cannot_be_read_is_not_written_over(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text("something: else\n")
    for arguments in (["create"], ["list"], ["revoke", "a"], ["check"]):
        told = keys(*arguments, "-f", str(file))
        assert told.exit_code == 2
        assert "keys.yaml:1:1: (file): is not a list of keys" in told.stderr
    assert file.read_text() == "something: else\n"
    assert keys("list", "-f", str(tmp_path / "none.yaml")).exit_code == 2
