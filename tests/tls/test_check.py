"""What `check` says of certificates: wrong files are problems in their place, doubtful ones are warnings."""

from pathlib import Path

import pytest

from gateway.app import load_file, registries
from gateway.config.effective import effective
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from tests.tls.authority import Authority
from tests.tls.support import section, text

REPLICA = "http://127.0.0.1:1"


def problems(folder: Path, more: str, replica: str = REPLICA, backend: str = "") -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(f"version: 1\n{text(replica, more, backend=backend)}")
    with pytest.raises(ConfigProblems) as raised:
        load_file(file)
    return [f"{each.path}: {each.message}" for each in raised.value.problems]


def doubts(folder: Path, more: str, replica: str = REPLICA, backend: str = "") -> list[str]:
    file = folder / "gateway.yaml"
    file.write_text(f"version: 1\n{text(replica, more, backend=backend)}")
    said = [f"{each.path}: {each.message}" for each in load_file(file).warnings]
    return [each for each in said if "tls" in each]


def test_files_that_are_wrong_are_problems_where_they_are_written(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, other = authority.issue("good"), authority.issue("other")
    good_section = section("tls", good)
    assert doubts(tmp_path, good_section) == []
    wrong = {
        good_section.replace("good.crt", "none.crt"): "tls.certificate: ",
        good_section.replace("good.key", "other.key"): "tls.key: ",
        section("admin_tls", good).replace("good.crt", "good.key"): "admin_tls.certificate: ",
        section("tls", authority.issue("late", days=-2)): "tls.certificate: ",
        section("tls", good).replace("{file: ", "{env: "): "tls.key: ",
        section("tls", good, authority).replace("authority.crt", "good.key"): "tls.client_ca: ",
        section("tls", good, more=", min_version: '1.1'"): "tls.min_version: ",
        section("tls", good, more=", client_certificates: required"): "tls: ",
        section("tls", good, more=f", client_ca: {authority.file}"): "tls: ",
    }
    for more, begins in wrong.items():
        said = problems(tmp_path, more)
        assert len(said) == 1, said
        assert said[0].startswith(begins), (more, said)
    assert "has expired" in problems(tmp_path, section("tls", authority.issue("late", days=-2)))[0]
    other.key.unlink()
    assert "cannot be read" in problems(tmp_path, section("tls", other))[0]
    secret = good.key.read_text().splitlines()[1]
    pasted = section("tls", good).replace(f"{{file: {good.key}}}", f'"{secret}"')
    assert secret not in "".join(problems(tmp_path, pasted))


def test_what_is_doubtful_is_a_warning(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    soon = authority.issue("soon", days=12.5)
    assert doubts(tmp_path, section("tls", soon)) == [
        f"tls.certificate: {soon.certificate} expires in 12 days; renew it"
    ]
    good = authority.issue("good")
    good.key.chmod(0o640)
    assert doubts(tmp_path, section("tls", good)) == []
    good.key.chmod(0o644)
    said = doubts(tmp_path, section("admin_tls", good))
    assert len(said) == 1
    assert said[0].startswith(f"admin_tls.key: every user of this machine can read {good.key}")
    good.key.chmod(0o600)
    grpc = "listen: {grpc: '127.0.0.1:0'}\n"
    optional = section("tls", good, authority, ", min_version: '1.3'").replace("required", "optional")
    assert doubts(tmp_path, grpc + optional) == [], "the gRPC port keeps to all of it"


def test_towards_a_backend_files_are_checked_too(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good, other = authority.issue("good"), authority.issue("other")
    https = "https://localhost:1"

    def tls(more: str) -> str:
        return f", tls: {{{more}}}"

    assert doubts(tmp_path, "", https, tls(f"ca_file: {authority.file}")) == []
    at = "backends.fleet.tls"
    wrong = {
        f"ca_file: {tmp_path}/none": f"{at}.ca_file: ",
        f"certificate: {good.certificate}, key: {{file: {other.key}}}": f"{at}.key: ",
        f"certificate: {good.certificate}": f"{at}: ",
        f"insecure_skip_verify: true, ca_file: {authority.file}": f"{at}: ",
    }
    for more, begins in wrong.items():
        said = problems(tmp_path, "", https, tls(more))
        assert len(said) == 1, said
        assert said[0].startswith(begins), (more, said)
    said = doubts(tmp_path, "", https, tls("insecure_skip_verify: true"))
    assert len(said) == 1
    assert said[0].startswith(f"{at}.insecure_skip_verify: whoever stands between")


def test_the_effective_file_reads_back_and_names_the_key_only_by_its_place(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    good = authority.issue("good")
    whole = f"version: 1\n{text(REPLICA, section('tls', good, authority))}"
    settings = load(whole, *registries()).settings
    assert load(effective(settings), *registries()).settings == settings
    assert good.key.read_text().splitlines()[1] not in effective(settings)
    assert str(good.key) in effective(settings)
    assert load(whole.replace("good.crt", "none"), *registries(), resolve_secrets=False)
