"""The chart as helm renders it: valid for Kubernetes, confined, and fitting the policy file that it carries."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.tools import CHART, ROOT, find, needs, run
from tests.deploy.values import (
    EVERYTHING,
    Manifest,
    arguments,
    container,
    of_kind,
    only,
    pod,
    policy_file,
    read,
    refused,
    rendered,
)

pytestmark = needs("helm")

ALONE = {"replicaCount": 1, "networkPolicy": {"enabled": False}, "serviceAccount": {"create": False}}
VALUES = {"default": {}, "everything": EVERYTHING, "alone": ALONE}
CUSTOM = {"ServiceMonitor", "PrometheusRule", "ScaledObject", "TriggerAuthentication"}


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_helm_finds_nothing_to_complain_of(values: Manifest, tmp_path: Path) -> None:
    said = run("helm", "lint", "--strict", *arguments(tmp_path, values)[1:])
    assert "[WARNING]" not in said
    assert "[ERROR]" not in said


@needs("kubernetes-validate")
@pytest.mark.parametrize(("values", "version"), [(EVERYTHING, "1.30"), (EVERYTHING, "1.37"), ({}, "1.30")])
def test_every_manifest_fits_kubernetes_own_schema(values: Manifest, version: str, tmp_path: Path) -> None:
    manifests = rendered(**values)
    paths = []
    for number, manifest in enumerate(each for each in manifests if each["kind"] not in CUSTOM):
        path = tmp_path / f"{number}.yaml"
        path.write_text(yaml.safe_dump(manifest))
        paths.append(path)
    said = run("kubernetes-validate", "--strict", "-k", version, *paths)
    assert said.count(" passed for resource ") == len(paths)


def test_everything_stands_where_it_was_installed_under_one_name() -> None:
    manifests = rendered(**EVERYTHING)
    names = [(each["kind"], each["metadata"]["name"]) for each in manifests]
    assert len(set(names)) == len(names)
    assert {each["metadata"]["namespace"] for each in manifests} == {"inference"}
    assert {kind for kind, _ in names} >= CUSTOM
    for each in manifests:
        assert each["metadata"]["labels"]["app.kubernetes.io/instance"] == "release"


@pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)
def test_every_pod_is_confined(values: Manifest) -> None:
    manifests = rendered(**values)
    for spec in [pod(manifests), only(manifests, "Pod")["spec"]]:
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["runAsUser"] == 65532
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for each in spec["containers"]:
            context = each["securityContext"]
            assert context["readOnlyRootFilesystem"] is True
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert {"cpu", "memory"} <= set(each["resources"]["requests"])


def test_the_image_of_the_dockerfile_runs_as_that_user() -> None:
    [user] = re.findall(r"(?m)^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text())
    assert user == "65532"


def test_probes_ask_the_admin_port_and_a_fleet_that_is_down_restarts_nothing() -> None:
    gateway = container(rendered())
    asked = {name: gateway[f"{name}Probe"]["httpGet"] for name in ("startup", "liveness", "readiness")}
    assert asked["startup"] == asked["liveness"] == {"path": "/livez", "port": "admin", "scheme": "HTTP"}
    assert asked["readiness"] == {"path": "/readyz", "port": "admin", "scheme": "HTTP"}
    assert {each["name"]: each["containerPort"] for each in gateway["ports"]} == {"http": 8000, "admin": 8002}


@pytest.mark.parametrize(
    ("delay", "drain", "wait", "seconds"),
    [
        ("0s", "30s", 5, 45), ("0s", "1m30s", 5, 105), ("0s", "500ms", 0, 11), ("0s", "1.5s", 0, 12),
        ("0s", "1h", 20, 3630), ("15s", "30s", 5, 60), ("1m30s", "1h", 0, 3700), ("200ms", "1s", 0, 12),
    ],
)  # fmt: skip
def test_a_pod_may_end_later_than_its_calls(delay: str, drain: str, wait: int, seconds: int) -> None:
    manifests = rendered(config=policy_file(drain_delay=delay, drain_timeout=drain), preStopSeconds=wait)
    assert pod(manifests)["terminationGracePeriodSeconds"] == seconds
    hook = container(manifests).get("lifecycle")
    assert hook == ({"preStop": {"sleep": {"seconds": wait}}} if wait else None)


def test_ports_are_those_of_the_policy_file() -> None:
    listen = {"http": "0.0.0.0:9000", "grpc": "[::]:9001", "admin": "0.0.0.0:9002"}
    manifests = rendered(config=policy_file(listen=listen))
    opened = {each["name"]: each["containerPort"] for each in container(manifests)["ports"]}
    assert opened == {"http": 9000, "grpc": 9001, "admin": 9002}
    data, admin = of_kind(manifests, "Service")
    assert [(each["name"], each["port"]) for each in data["spec"]["ports"]] == [
        ("http", 9000),
        ("grpc", 9001),
    ]
    assert [(each["name"], each["port"]) for each in admin["spec"]["ports"]] == [("admin", 9002)]
    for service in (data, admin):
        assert all(each["targetPort"] in opened for each in service["spec"]["ports"])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"config": policy_file(listen={"http": "127.0.0.1:8000"})}, "nothing outside of the pod reaches"),
        ({"config": policy_file(listen={})}, "listen.http is 127.0.0.1:8000"),
        ({"config": policy_file(listen={"http": "0.0.0.0:8000"})}, "listen.admin is 127.0.0.1:8002"),
        ({"config": policy_file(listen={"http": "0.0.0.0:0"})}, "write 0.0.0.0:PORT"),
        ({"config": "version: 1"}, "no backends"),
        ({"config": "version: [1"}, "not YAML"),
        ({"replicas": 3}, "additional properties 'replicas' not allowed"),
        ({"autoscaling": {"enabled": True, "minReplicas": 3, "maxReplicas": 2}}, "below"),
    ],
)
def test_values_that_would_not_work_are_refused_with_the_reason(
    values: dict[str, Any], said: str, tmp_path: Path
) -> None:
    assert said in refused(tmp_path, **values)


def test_the_pod_gets_the_policy_file_as_it_was_given(tmp_path: Path) -> None:
    given = ROOT / "config/overspill.yaml"
    text = re.sub(r"(?m)^(  (?:http|admin): )127\.0\.0\.1:", r"\g<1>0.0.0.0:", given.read_text())
    (tmp_path / "policy.yaml").write_text(text)
    printed = run("helm", "template", "o", CHART, "--set-file", f"config={tmp_path / 'policy.yaml'}")
    manifests = read(printed)
    got = only(manifests, "ConfigMap")["data"]["overspill.yaml"]
    assert got.strip() == text.strip()
    assert container(manifests)["args"][:3] == ["serve", "-c", "/etc/overspill/overspill.yaml"]
    assert {"name": "config", "mountPath": "/etc/overspill", "readOnly": True} in container(manifests)[
        "volumeMounts"
    ]


def test_another_policy_file_rolls_the_pods_unless_that_is_not_wanted() -> None:
    def mark(**values: Any) -> str | None:
        template = only(rendered(**values), "Deployment")["spec"]["template"]
        found: str | None = template["metadata"]["annotations"].get("checksum/config")
        return found

    assert mark() == mark(replicaCount=3)
    assert mark() != mark(config=policy_file(drain_timeout="31s"))
    assert mark(rollOnConfigChange=False) is None


def test_secrets_come_by_reference_only() -> None:
    manifests = rendered(**EVERYTHING)
    assert not of_kind(manifests, "Secret")
    gateway = container(manifests)
    [key] = [each for each in gateway["env"] if each["name"] == "RUNPOD_API_KEY"]
    assert key["valueFrom"] == {"secretKeyRef": {"name": "overspill", "key": "runpod"}}
    mounted = {each["mountPath"]: each for each in gateway["volumeMounts"]}
    assert mounted["/run/secrets/overspill"]["readOnly"] is True
    [volume] = [each for each in pod(manifests)["volumes"] if "secret" in each]
    assert volume["secret"] == {"secretName": "overspill-keys", "defaultMode": 0o440}


def test_what_is_written_goes_to_volumes_of_limited_size() -> None:
    manifests = rendered()
    written = {each["mountPath"] for each in container(manifests)["volumeMounts"] if not each.get("readOnly")}
    assert written == {"/tmp", "/var/lib/overspill"}
    assert all("sizeLimit" in each["emptyDir"] for each in pod(manifests)["volumes"] if "emptyDir" in each)


def fleet(**kubernetes: str) -> Manifest:
    return {"type": "triton", "discover": {"kubernetes": {"service": "triton", **kubernetes}}}


def test_it_may_watch_endpoint_slices_there_and_nothing_else() -> None:
    backends = {"here": fleet(), "also-here": fleet(), "there": fleet(namespace="gpus")}
    manifests = rendered(config=policy_file(backends=backends))
    roles = of_kind(manifests, "Role")
    assert {each["metadata"]["namespace"] for each in roles} == {"inference", "gpus"}
    for role in roles:
        assert role["rules"] == [
            {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]}
        ]
    account = only(manifests, "ServiceAccount")["metadata"]["name"]
    for binding in of_kind(manifests, "RoleBinding"):
        [subject] = binding["subjects"]
        assert subject == {"kind": "ServiceAccount", "name": account, "namespace": "inference"}
    assert pod(manifests)["serviceAccountName"] == account
    assert pod(manifests)["automountServiceAccountToken"] is True
    assert not of_kind(manifests, "ClusterRole")


def test_without_discovery_it_has_no_token_of_the_cluster() -> None:
    backends = {"fleet": {"type": "triton", "replicas": ["http://triton:8000"]}}
    manifests = rendered(config=policy_file(backends=backends))
    assert not of_kind(manifests, "Role")
    assert pod(manifests)["automountServiceAccountToken"] is False


def test_services_and_policies_select_the_gateways_pods_and_not_the_test_pod() -> None:
    manifests = rendered(**EVERYTHING)
    labels = only(manifests, "Deployment")["spec"]["template"]["metadata"]["labels"]
    other = only(manifests, "Pod")["metadata"]["labels"]
    selectors = [each["spec"]["selector"] for each in of_kind(manifests, "Service")]
    selectors += [
        only(manifests, "Deployment")["spec"]["selector"]["matchLabels"],
        only(rendered(), "PodDisruptionBudget")["spec"]["selector"]["matchLabels"],
        only(manifests, "NetworkPolicy")["spec"]["podSelector"]["matchLabels"],
    ]
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert not selector.items() <= other.items()


def test_the_admin_port_is_for_the_namespace_and_never_outside_of_the_cluster() -> None:
    manifests = rendered(service={"type": "LoadBalancer"})
    data, admin = of_kind(manifests, "Service")
    assert (data["spec"]["type"], admin["spec"]["type"]) == ("LoadBalancer", "ClusterIP")
    calls, views = only(manifests, "NetworkPolicy")["spec"]["ingress"]
    assert [each["port"] for each in calls["ports"]] == ["http"]
    assert "from" not in calls
    assert [each["port"] for each in views["ports"]] == ["admin"]
    assert views["from"] == [{"podSelector": {}}]
    closed = rendered(networkPolicy={"adminFrom": []})
    assert len(only(closed, "NetworkPolicy")["spec"]["ingress"]) == 1


def test_a_disruption_budget_never_blocks_a_single_pod() -> None:
    assert only(rendered(), "PodDisruptionBudget")["spec"]["maxUnavailable"] == 1
    assert not of_kind(rendered(replicaCount=1), "PodDisruptionBudget")


def test_with_an_autoscaler_nobody_else_counts_the_pods() -> None:
    manifests = rendered(autoscaling={"enabled": True})
    deployment = only(manifests, "Deployment")
    assert "replicas" not in deployment["spec"]
    target = only(manifests, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
    assert target == {"apiVersion": "apps/v1", "kind": "Deployment", "name": deployment["metadata"]["name"]}


def test_the_service_monitor_finds_the_admin_port_and_no_other() -> None:
    manifests = rendered(**EVERYTHING)
    monitor = only(manifests, "ServiceMonitor")
    wanted = monitor["spec"]["selector"]["matchLabels"].items()
    [found] = [each for each in of_kind(manifests, "Service") if wanted <= each["metadata"]["labels"].items()]
    [endpoint] = monitor["spec"]["endpoints"]
    assert endpoint["port"] in {each["name"] for each in found["spec"]["ports"]}
    assert found["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "overspill"
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    assert endpoint["authorization"]["credentials"] == {"name": "overspill-admin", "key": "token"}


def test_with_tls_on_the_admin_port_everybody_who_asks_there_speaks_it() -> None:
    pair = {"certificate": "/run/secrets/tls/tls.crt", "key": {"file": "/run/secrets/tls/tls.key"}}
    manifests = rendered(**EVERYTHING, config=policy_file(admin_tls=pair))
    gateway = container(manifests)
    assert {
        gateway[f"{name}Probe"]["httpGet"]["scheme"] for name in ("startup", "liveness", "readiness")
    } == {"HTTPS"}
    assert only(manifests, "ServiceMonitor")["spec"]["endpoints"][0]["scheme"] == "https"
    [trigger] = only(manifests, "ScaledObject")["spec"]["triggers"]
    assert trigger["metadata"]["url"].startswith("https://")
    assert only(manifests, "Pod")["spec"]["containers"][0]["args"][1].startswith("https://")


@pytest.mark.skipif(find("promtool") is None, reason="needs Debian's package prometheus")
def test_prometheus_takes_the_rules(tmp_path: Path) -> None:
    spec = only(rendered(**EVERYTHING), "PrometheusRule")["spec"]
    path = tmp_path / "rules.yaml"
    path.write_text(yaml.safe_dump(spec))
    assert "SUCCESS" in run("promtool", "check", "rules", path)
    shipped: list[Manifest] = []
    for name in ("alert-rules.yaml", "recording-rules.yaml"):
        shipped += yaml.safe_load((ROOT / "config/prometheus" / name).read_text())["groups"]
    assert [each["rules"] for each in spec["groups"][1:]] == [each["rules"] for each in shipped]
    limits = [(rule["expr"], rule.get("labels")) for rule in spec["groups"][0]["rules"]]
    assert limits == [("1", None), ("0.25", {"route": "embed"})]


def test_dashboards_arrive_unchanged() -> None:
    maps = [each for each in of_kind(rendered(**EVERYTHING), "ConfigMap") if len(each["data"]) == 1]
    found = {name: text for each in maps for name, text in each["data"].items() if name.endswith(".json")}
    there = {f"overspill-{path.name}": path for path in (ROOT / "config/grafana/dashboards").glob("*.json")}
    assert set(found) == set(there)
    for name, path in there.items():
        assert json.loads(found[name]) == json.loads(path.read_text())


def test_keda_scales_the_fleet_by_what_is_recommended() -> None:
    spec = only(rendered(**EVERYTHING), "ScaledObject")["spec"]
    assert spec["scaleTargetRef"]["name"] == "triton"
    [trigger] = spec["triggers"]
    asked = trigger["metadata"]
    assert asked["url"] == "http://release-overspill-admin.inference.svc:8002/scaler/metrics.json"
    assert asked["valueLocation"] == "backends.fleet.wanted_replicas"
    login = only(rendered(**EVERYTHING), "TriggerAuthentication")
    assert trigger["authenticationRef"]["name"] == login["metadata"]["name"]
    [token] = login["spec"]["secretTargetRef"]
    assert token == {"parameter": "token", "name": "overspill-admin", "key": "token"}
    own = [
        {"type": "metrics-api", "metadata": {"url": "http://a/", "valueLocation": "b", "targetValue": "1"}}
    ]
    changed = rendered(keda={"enabled": True, "triggers": own})
    assert only(changed, "ScaledObject")["spec"]["triggers"] == own


def test_the_test_pod_asks_both_services() -> None:
    manifests = rendered()
    [asks] = only(manifests, "Pod")["spec"]["containers"]
    compile(asks["args"][0], "test pod", "exec")
    services = {
        f"http://{each['metadata']['name']}:{port['port']}"
        for each in of_kind(manifests, "Service")
        for port in each["spec"]["ports"]
    }
    assert {url.rsplit("/", url.count("/") - 2)[0] for url in asks["args"][1:]} == services
