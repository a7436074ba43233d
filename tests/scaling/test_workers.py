"""With several workers the admin process tells of all of them together, over HTTP and over gRPC."""

import json
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from gateway.scaling.external import SERVICE
from tests.scaling.test_external import metric, request
from tests.top.live import free_port, gateway, until


def test_the_admin_process_tells_for_all_workers(tmp_path: Path) -> None:
    grpc = pytest.importorskip("grpc", reason="grpcio is an extra")
    port = free_port()
    more = f"scaling: {{external_scaler: '127.0.0.1:{port}', replicas: {{fleet: {{min: 3}}}}}}\n"
    with gateway(tmp_path, more, "--workers", "2") as made:
        told: dict[str, Any] = {}

        def known() -> bool:
            with urllib.request.urlopen(f"{made.url}/scaler/metrics.json", timeout=5) as answer:
                told.update(json.load(answer)["backends"])
            return "wanted_replicas" in told.get("fleet", ())

        until(known, "both workers were asked")
        assert told["fleet"]["present_replicas"] == 2, "not one fleet for each worker"
        assert told["fleet"]["wanted_replicas"] == 3
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            answer = channel.unary_unary(f"/{SERVICE}/GetMetrics")(request("m", backend="fleet"), timeout=10)
        assert metric(answer) == ("m", 3, 3.0)
