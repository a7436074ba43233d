"""Values that the chart's tests render with, and what is common to reading what comes out."""

import functools
import json
import tempfile
from pathlib import Path
from typing import Any

import yaml

from tests.deploy.tools import CHART, run

Manifest = dict[str, Any]

EVERYTHING: dict[str, Any] = {
    "secretEnv": [{"name": "RUNPOD_API_KEY", "secret": "overspill", "key": "runpod"}],
    "secretFiles": [{"secret": "overspill-keys", "path": "/run/secrets/overspill"}],
    "env": [{"name": "TZ", "value": "UTC"}],
    "image": {"digest": "sha256:" + "0" * 64},
    "adminToken": {"secret": "overspill-admin"},
    "imagePullSecrets": [{"name": "registry"}],
    "workers": "auto",
    "podAnnotations": {"team": "inference"},
    "podLabels": {"tier": "edge"},
    "nodeSelector": {"kubernetes.io/arch": "amd64"},
    "tolerations": [{"key": "edge", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "priorityClassName": "system-cluster-critical",
    "service": {"type": "LoadBalancer", "annotations": {"team": "inference"}},
    "serviceAccount": {"annotations": {"team": "inference"}},
    "autoscaling": {"enabled": True},
    "networkPolicy": {
        "dataFrom": [{"namespaceSelector": {}}],
        "egress": [{"to": [{"podSelector": {}}]}],
    },
    "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "costPer1kUsdByRoute": {"embed": 0.25}},
    "dashboards": {"enabled": True},
    "keda": {"enabled": True},
}
"""Every switch on, every list with something in it."""


def policy_file(**keys: Any) -> str:
    """The chart's own policy file with some keys changed."""
    written = yaml.safe_load((CHART / "values.yaml").read_text())["config"]
    return yaml.safe_dump({**yaml.safe_load(written), **keys}, sort_keys=False)


def arguments(folder: Path, values: Manifest) -> list[str]:
    path = folder / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    return ["release", str(CHART), "--namespace", "inference", "-f", str(path)]


def rendered(**values: Any) -> list[Manifest]:
    """Everything that the chart makes of these values."""
    return read(_rendered(json.dumps(values, sort_keys=True)))


def read(text: str) -> list[Manifest]:
    return [each for each in yaml.safe_load_all(text) if each is not None]


@functools.cache
def _rendered(values: str) -> str:
    with tempfile.TemporaryDirectory() as folder:
        return run("helm", "template", *arguments(Path(folder), json.loads(values)))


def refused(folder: Path, **values: Any) -> str:
    """What helm says of values that the chart does not take."""
    return run("helm", "template", *arguments(folder, values), code=1)


def of_kind(manifests: list[Manifest], kind: str) -> list[Manifest]:
    return [each for each in manifests if each["kind"] == kind]


def only(manifests: list[Manifest], kind: str) -> Manifest:
    [found] = of_kind(manifests, kind)
    return found


def pod(manifests: list[Manifest]) -> Manifest:
    """The pod of the gateway."""
    found: Manifest = only(manifests, "Deployment")["spec"]["template"]["spec"]
    return found


def container(manifests: list[Manifest]) -> Manifest:
    [found] = pod(manifests)["containers"]
    return dict(found)
