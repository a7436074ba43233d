"""The whole command against the providers' emulators, on real sockets: figures, bill and failures."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

from backends.base import BackendOptions
from backends.runpod import RunPod
from gateway.demo.processes import Child
from gateway.probe.facts import facts
from gateway.probe.measure import Measurement, ProbeFailed, Wanted
from gateway.probe.purse import Purse, Rates
from gateway.probe.request import given
from tests.serverless.test_against_emulators import fleet, runpod, section
from tests.support.provider import built, refusing_url

SECRETS = {
    "RP": "rp-emulated", "MK": "wk-emulated", "MS": "ws-emulated", "AK": "AKIAEMULATED", "SK": "emulated-secret",
}  # fmt: skip
BOOT_S, IDLE_S = 0.5, 0.6
EMULATOR = {
    "app": "tests.probe.app:app",
    "boot": {"fast_s": BOOT_S, "slow_s": BOOT_S, "spread": 0.0},
    "cap": 4,
    "idle_after_s": IDLE_S,
    "pace_s": 0.02,
    "slots": 4,
}
COMMON = f"max_in_flight: 4, cold_start: {{expect: {BOOT_S}s, idle_after: {IDLE_S}s}}"
SECTIONS = {
    "runpod": "{{type: runpod, endpoint_id: emulated, base_url: '{url}/v2', api_key: {{env: RP}}, "
    "price: {{usd_per_second: 0.00022}}, {common}}}",
    "modal": "{{type: modal, url: '{url}', proxy_auth: {{key: {{env: MK}}, secret: {{env: MS}}}}, "
    "price: {{usd_per_second: 0.000222}}, {common}}}",
    "lambda": "{{type: aws_lambda, function: emulated, region: us-east-1, endpoint_url: '{url}', "
    "credentials: {{access_key: {{env: AK}}, secret_key: {{env: SK}}}}, memory: 1GiB, "
    "price: {{usd_per_gb_second: 0.0000166667, usd_per_request: 0.0000002}}, {common}}}",
    "kserve": "{{type: triton, replicas: ['{url}'], max_in_flight: 4, price: {{usd_per_replica_hour: 0.79}}}}",
}


@pytest.fixture(scope="module")
def policy_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A file with a backend for each emulator, all running, and one that nobody listens for."""
    children = [
        Child(
            kind,
            [sys.executable, "-m", "backends.emulators", "--kind", kind, "--config", json.dumps(EMULATOR)],
        )
        for kind in SECTIONS
    ]
    try:
        lines = []
        for child, kind in zip(children, SECTIONS, strict=True):
            url = child.wait_ready(60)["url"]
            lines.append(f"  {kind}: " + SECTIONS[kind].format(url=url, common=COMMON))
        gone = asyncio.run(refusing_url())
        lines.append(f"  gone: {{type: triton, replicas: ['{gone}'], max_in_flight: 4}}")
        tiers = ", ".join(f"{{backend: {kind}, when_full: spill}}" for kind in SECTIONS)
        text = "version: 1\nbackends:\n" + "\n".join(lines) + "\nroutes:\n"
        text += f"  double: {{match: {{model: double}}, tiers: [{tiers}, {{backend: gone}}]}}\n"
        path = tmp_path_factory.mktemp("probe") / "f.yaml"
        path.write_text(text)
        yield str(path)
    finally:
        for child in children:
            child.stop()


def probe(path: str, backend: str, *more: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "probe", "-c", path, "--backend", backend, *more],
        env={**os.environ, **SECRETS, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.parametrize("kind", ["runpod", "modal", "lambda"])
def test_a_rented_backend(policy_file: str, kind: str) -> None:
    done = probe(policy_file, kind, "--yes", "--calls", "10", "--cold-starts", "2", "--concurrency", "2")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    pasted = yaml.safe_load(done.stdout[done.stdout.index("calibration:") :])
    options = BackendOptions.model_validate({"type": kind, "max_in_flight": 1, **pasted})
    measured = options.calibration
    assert measured is not None
    assert measured.cold_start is not None
    assert measured.service is not None
    assert measured.concurrency is not None
    assert measured.cold_start.samples == 2
    assert measured.cold_start.p50 == pytest.approx(BOOT_S, abs=0.25)
    assert measured.service.p50 is not None
    assert 0.02 <= measured.service.p50 < 0.2
    assert measured.usd_per_1k is not None
    assert measured.usd_per_1k > 0
    assert ("memory" in done.stdout) == (kind == "lambda")


def test_an_owned_backend_needs_no_leave(policy_file: str) -> None:
    done = probe(policy_file, "kserve", "--calls", "10", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["complete"] is True
    assert result["cold_starts_s"] == []
    assert [level["concurrency"] for level in result["levels"]] == [1, 2, 4]
    assert result["calibration"]["usd_per_1k"] > 0


def test_money_is_spent_only_when_somebody_said_so(policy_file: str) -> None:
    done = probe(policy_file, "runpod")
    assert done.returncode == 2
    assert "--yes" in done.stderr
    assert "starts of an instance" in done.stderr
    assert "costs about $" in done.stderr


@pytest.mark.parametrize(
    ("backend", "more", "environment", "status", "said"),
    [
        ("gone", [], {}, 1, "cannot connect"),
        ("runpod", ["--yes"], {"RP": "wrong"}, 1, "401"),
        ("modal", ["--yes"], {"MS": "wrong"}, 1, "401"),
        ("lambda", ["--yes"], {"SK": "wrong"}, 1, "InvalidSignatureException"),
        ("runpod", ["--yes"], {"RP": ""}, 1, "RP is not set"),
        ("kserve", ["--model", "other"], {}, 1, "unknown model"),
        ("runpod", ["--yes", "--max-usd", "0.000001"], {}, 1, "--max-usd is 1e-06"),
        ("other", [], {}, 2, "no backend 'other'"),
        ("kserve", ["--route", "other"], {}, 2, "no route 'other'"),
        ("kserve", ["--timeout", "5"], {}, 2, "--timeout"),
        ("kserve", ["--protocol", "raw"], {}, 2, "--request FILE"),
        ("kserve", ["--request", "/no/such/file"], {}, 2, "No such file"),
    ],
)
def test_what_cannot_be_measured_is_said_in_one_line(
    policy_file: str, backend: str, more: list[str], environment: dict[str, str], status: int, said: str
) -> None:
    done = probe(policy_file, backend, "--cold-starts", "1", *more, **environment)
    assert (done.returncode, done.stdout) == (status, "")
    assert "Traceback" not in done.stderr
    assert said in done.stderr.splitlines()[-1]
    assert not any(secret in done.stderr for secret in SECRETS.values())


def test_a_request_that_the_model_refuses(policy_file: str, tmp_path: Path) -> None:
    body = tmp_path / "request.json"
    body.write_text('{"inputs": [{"name": "y", "datatype": "FP32", "shape": [1, 1], "data": [1]}]}')
    done = probe(policy_file, "kserve", "--request", str(body))
    assert (done.returncode, done.stdout) == (1, "")
    assert "answered 400 to this request" in done.stderr


def completed(url: str) -> int:
    """Jobs that the emulated endpoint has done."""
    request = urllib.request.Request(
        f"{url}/emulated/health", headers={"authorization": "Bearer rp-emulated"}
    )
    with urllib.request.urlopen(request, timeout=5) as reply:
        return int(json.load(reply)["jobs"]["completed"])


def test_an_interrupt_prints_what_was_measured_so_far(policy_file: str) -> None:
    url = yaml.safe_load(Path(policy_file).read_text())["backends"]["runpod"]["base_url"]
    before = completed(url)
    child = subprocess.Popen(
        [sys.executable, "-u", "-m", "gateway.cli", "probe", "-c", policy_file, "--backend", "runpod",
         "--yes", "--calls", "5", "--cold-starts", "1000", "--concurrency", "1", "--max-usd", "9"],
        env={**os.environ, **SECRETS},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with child:
        while completed(url) < before + 10:  # metadata, three to warm up, five, and one cold start
            assert child.poll() is None
            time.sleep(0.05)
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert "interrupted: these are the figures so far" in errors
    assert "Traceback" not in errors
    assert yaml.safe_load(output[output.index("calibration:") :])["calibration"]["service"]["p50"]


@pytest.mark.parametrize("cap", [0.05, 0.4, 5.0])
async def test_the_providers_bill_stays_below_the_cap(cap: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """RunPod bills boots, idle tails and whole seconds: more than the calls themselves say."""
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", "rp-emulated")
    async with runpod(fleet(pace_s=0.02)) as server:
        _, options = section(server)
        usd_per_second: Any = 0.01
        options = {**options, "price": {"usd_per_second": usd_per_second}}
        async with built(RunPod, options) as (backend, _):
            known = facts(backend)
            probe = Measurement(
                backend,
                facts=known,
                purse=Purse(Rates.of(known.rent), cap),
                wanted=Wanted(calls=5, colds=2, most=4, timeout_s=5.0),
                clock=backend.kit.clock,
                tell=lambda _: None,
            )
            request = given("raw", "embed", "", "/v2/models/minilm/infer", b"abc")
            with suppress(ProbeFailed):  # where not even the first call fits
                await probe.run(request)
            assert bool(probe.figures) == (cap > 0.05)
            spent = probe.spent()
            await asyncio.sleep(1.0)  # the emulator's own idle timers
            bill = server.bill()
    billed = bill.usd / server.endpoint.usd_per_second * usd_per_second  # type: ignore[attr-defined]
    assert billed <= cap
    assert spent is not None
    assert spent <= cap
    if cap == 5.0:
        assert bill.cold_starts >= 3
