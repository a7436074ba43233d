"""The example files for KEDA say what the gateway serves."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from gateway.scaling.external import BACKEND

FOLDER = Path(__file__).parent.parent.parent / "config" / "keda"
FILES = sorted(FOLDER.glob("*.yaml"))


def documents(path: Path) -> dict[str, dict[str, Any]]:
    return {each["kind"]: each for each in yaml.safe_load_all(path.read_text())}


def test_there_is_one_for_each_way() -> None:
    assert [path.name for path in FILES] == ["scaledobject-external.yaml", "scaledobject-metrics-api.yaml"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_a_scaled_object_is_well_formed(path: Path) -> None:
    scaled = documents(path)["ScaledObject"]
    assert scaled["apiVersion"] == "keda.sh/v1alpha1"
    spec = scaled["spec"]
    assert set(spec) <= {
        "scaleTargetRef", "pollingInterval", "cooldownPeriod", "minReplicaCount", "maxReplicaCount",
        "idleReplicaCount", "fallback", "advanced", "triggers",
    }  # fmt: skip
    assert spec["minReplicaCount"] <= spec["fallback"]["replicas"] <= spec["maxReplicaCount"]
    (trigger,) = spec["triggers"]
    assert trigger["metricType"] == "AverageValue", "any other would multiply by the replicas there are"
    assert all(isinstance(value, str) for value in trigger["metadata"].values()), "KEDA takes strings only"


def test_the_http_trigger_points_at_what_is_served() -> None:
    found = documents(FOLDER / "scaledobject-metrics-api.yaml")
    (trigger,) = found["ScaledObject"]["spec"]["triggers"]
    assert trigger["type"] == "metrics-api"
    metadata = trigger["metadata"]
    assert metadata["url"].endswith(":8002/scaler/metrics.json")
    assert metadata["valueLocation"] == "backends.fleet.wanted_replicas"
    assert float(metadata["targetValue"]) == 1.0
    authentication = found["TriggerAuthentication"]
    assert trigger["authenticationRef"]["name"] == authentication["metadata"]["name"]
    assert [each["parameter"] for each in authentication["spec"]["secretTargetRef"]] == ["token"]


def test_the_grpc_trigger_names_a_backend() -> None:
    (trigger,) = documents(FOLDER / "scaledobject-external.yaml")["ScaledObject"]["spec"]["triggers"]
    assert trigger["type"] == "external"
    assert set(trigger["metadata"]) == {"scalerAddress", BACKEND}
