"""The one-command stack, checked without a container engine: its schema, its confinement, and its parts."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.app import load_file
from tests.deploy.tools import COMPOSE, ROOT, STACK, TOOLS, find, needs, run

STACK_FILE: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK_FILE["services"]
CHECKED_BY_OTHERS = {"otel-collector"}
"""Images with nothing in them that could ask; Prometheus scrapes these."""


def mounts(service: str) -> dict[str, Path]:
    """Path in the container: file or folder of ours."""
    found = {}
    for volume in SERVICES[service].get("volumes", ()):
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            found[target] = (COMPOSE.parent / source).resolve()
    return found


def test_the_compose_specification_takes_it() -> None:
    if not (TOOLS / "python").exists():
        pytest.skip("needs the package compose-spec; `make deploy-tools` installs it")
    script = "import sys; from compose_spec import PyCompose as P; P.from_json(sys.stdin.read()).validate()"
    text = yaml.safe_load(COMPOSE.read_text())
    run(str(TOOLS / "python"), "-c", script, given=json.dumps(text))
    text["services"]["gateway"]["prots"] = []
    assert "prots" in run(str(TOOLS / "python"), "-c", script, given=json.dumps(text), code=1)


@needs("docker-compose")
def test_docker_compose_takes_it(tmp_path: Path) -> None:
    # Version 1 knows no `name` in the file; everything else is as it is.
    shutil.copytree(STACK, tmp_path / "stack")
    text = re.sub(r"(?m)^name: .*\n", "", COMPOSE.read_text())
    (tmp_path / "compose.yaml").write_text(text)
    printed = run("docker-compose", "-f", tmp_path / "compose.yaml", "config")
    assert set(yaml.safe_load(printed)["services"]) == set(SERVICES)


@pytest.mark.parametrize("service", SERVICES)
def test_every_container_is_confined(service: str) -> None:
    given = SERVICES[service]
    assert given["read_only"] is True
    assert given["cap_drop"] == ["ALL"]
    assert given["security_opt"] == ["no-new-privileges:true"]
    user, group = (int(part) for part in given["user"].split(":"))
    assert user > 0
    assert group > 0
    assert not {"privileged", "network_mode", "pid", "ipc", "devices", "cap_add"} & set(given)
    assert "docker.sock" not in str(given)
    assert re.search(r":[^:/]+$", given["image"]), "a tag"
    assert not given["image"].endswith(":latest")


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_published_beyond_this_machine(service: str) -> None:
    for port in SERVICES[service].get("ports", ()):
        assert str(port).startswith("127.0.0.1:"), port


def test_every_published_port_is_published_once() -> None:
    ports = [port.split(":")[1] for each in SERVICES.values() for port in each.get("ports", ())]
    assert sorted(ports) == ["3000", "8000", "8001", "8002", "9090"]


@pytest.mark.parametrize("service", sorted(set(SERVICES) - CHECKED_BY_OTHERS))
def test_every_service_says_whether_it_is_well(service: str) -> None:
    check = SERVICES[service]["healthcheck"]
    assert check["test"][0] == "CMD", "no shell"
    assert {"interval", "timeout", "retries", "start_period"} <= set(check)
    if check["test"][1] == "python":
        compile(check["test"][3], service, "exec")


def test_what_is_waited_for_has_a_health_check() -> None:
    for each in SERVICES.values():
        for name, condition in each.get("depends_on", {}).items():
            assert condition == {"condition": "service_healthy"}
            assert "healthcheck" in SERVICES[name]


def test_everything_that_is_mounted_is_there_and_read_only() -> None:
    for name, each in SERVICES.items():
        for volume in each.get("volumes", ()):
            if volume.startswith("."):
                assert volume.endswith(":ro"), volume
            else:
                assert volume.split(":")[0] in STACK_FILE["volumes"]
        for path in mounts(name).values():
            assert path.exists(), path
        for file in each.get("env_file", ()):
            assert (COMPOSE.parent / file).is_file()


def test_no_secret_is_written_down() -> None:
    for name, each in SERVICES.items():
        for key in each.get("environment", {}):
            assert not re.search(r"PASSWORD|SECRET|TOKEN|KEY", key), f"{name}: {key}"
    # The one key in a file opens the emulator, which has it as its default.
    keys = [line for line in (STACK / "emulated.env").read_text().splitlines() if not line.startswith("#")]
    assert keys == ["RUNPOD_API_KEY=rp-emulated"]
    assert "api_key: {env: RUNPOD_API_KEY}" in (STACK / "overspill.yaml").read_text()


def test_the_gateways_file_is_good_and_names_what_the_stack_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNPOD_API_KEY", "rp-emulated")
    settings = load_file(mounts("gateway")["/etc/overspill/overspill.yaml"]).settings
    text = (STACK / "overspill.yaml").read_text()
    hosts = set(re.findall(r"http://([a-z][a-z0-9-]*):\d+", text))
    assert hosts == {"triton", "runpod", "otel-collector"} <= set(SERVICES)
    published = {int(port.rsplit(":", 1)[1]) for port in SERVICES["gateway"]["ports"]}
    listen = settings.listen
    assert listen.grpc is not None
    assert {listen.http.port, listen.grpc.port, listen.admin.port} == published
    seconds = int(SERVICES["gateway"]["stop_grace_period"].removesuffix("s"))
    assert seconds > settings.drain_timeout


def test_the_gateway_gives_triton_as_many_calls_as_its_model_has_instances() -> None:
    config = (STACK / "models/totals/config.pbtxt").read_text()
    [count] = re.findall(r"count: (\d+)", config)
    written = yaml.safe_load((STACK / "overspill.yaml").read_text())
    assert written["backends"]["fleet"]["max_in_flight"] == int(count)


def test_prometheus_scrapes_services_of_the_stack_under_the_job_that_the_rules_know() -> None:
    config = yaml.safe_load((STACK / "prometheus.yaml").read_text())
    targets = {
        each["job_name"]: each["static_configs"][0]["targets"][0].split(":")[0]
        for each in config["scrape_configs"]
    }
    assert targets.pop("prometheus") == "127.0.0.1"
    assert targets == {"overspill": "gateway", "triton": "triton", "otel-collector": "otel-collector"}
    assert set(targets.values()) >= CHECKED_BY_OTHERS


@pytest.mark.skipif(find("promtool") is None, reason="needs Debian's package prometheus")
def test_prometheus_takes_its_configuration_with_the_rules_where_they_are_mounted(tmp_path: Path) -> None:
    for target, path in mounts("prometheus").items():
        there = tmp_path / target.lstrip("/")
        there.parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if path.is_dir() else shutil.copy)(path, there)
    said = run("promtool", "check", "config", tmp_path / "etc/prometheus/prometheus.yaml")
    assert "SUCCESS: 3 rule files found" in said


def test_grafana_finds_its_dashboards_and_prometheus() -> None:
    mounted = mounts("grafana")
    provisioning = mounted["/etc/grafana/provisioning"]
    provider = yaml.safe_load((provisioning / "dashboards/overspill.yaml").read_text())["providers"][0]
    dashboards = mounted[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert (dashboards / home.name).is_file()
    [source] = yaml.safe_load((provisioning / "datasources/prometheus.yaml").read_text())["datasources"]
    assert re.fullmatch(r"http://prometheus:9090", source["url"])


def test_the_collectors_pipelines_are_made_of_what_it_configures() -> None:
    config = yaml.safe_load((STACK / "otel-collector.yaml").read_text())
    for pipeline in config["service"]["pipelines"].values():
        for kind, names in pipeline.items():
            assert names
            assert set(names) <= set(config[kind])
    gateway = yaml.safe_load((STACK / "overspill.yaml").read_text())
    protocol = gateway["tracing"].get("protocol", "http")
    port = gateway["tracing"]["endpoint"].rsplit(":", 1)[1]
    assert config["receivers"]["otlp"]["protocols"][protocol]["endpoint"].endswith(f":{port}")


@needs("hadolint")
@pytest.mark.parametrize("path", sorted(ROOT.glob("Dockerfile*")), ids=lambda path: path.name)
def test_the_linter_of_dockerfiles_finds_nothing(path: Path) -> None:
    assert run("hadolint", path) == ""
