"""The stack's own files at work: its model, its emulated provider and its policy file, without containers."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from gateway.demo import triton_process
from gateway.demo.processes import Child, free_port
from tests.deploy import confined
from tests.deploy.tools import STACK

START_LIMIT = 60.0
NUMBERS = [0.1, 0.2, 4.0]
GATEWAY = [sys.executable, "-c", "from gateway.cli import main; main()"]


def infer(port: int) -> tuple[bytes, str]:
    """The answer, and who gave it."""
    body = {"inputs": [{"name": "numbers", "datatype": "FP32", "shape": [3], "data": NUMBERS}]}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v2/models/totals/infer", json.dumps(body).encode(), method="POST"
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return answer.read(), answer.headers.get("x-overspill-backend", "")


def total(answer: bytes) -> list[float]:
    [output] = json.loads(answer)["outputs"]
    assert (output["name"], output["datatype"], output["shape"]) == ("total", "FP32", [1])
    found: list[float] = output["data"]
    return found


def wait_ready(url: str, process: "subprocess.Popen[bytes]") -> None:
    give_up = time.monotonic() + START_LIMIT
    while True:
        assert process.poll() is None, process.stdout.read().decode() if process.stdout else "it ended"
        with suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        assert time.monotonic() < give_up, f"{url} is not ready"
        time.sleep(0.05)


@contextmanager
def emulated(kind: str, **changed: object) -> Iterator[str]:
    """An emulator with the application and figures of config/stack/burst; its URL."""
    config = {**json.loads((STACK / "burst/emulator.json").read_text()), **changed}
    child = Child(
        kind,
        [sys.executable, "-m", "backends.emulators", "--kind", kind, "--config", json.dumps(config)],
        env={"PYTHONPATH": str(STACK / "burst"), "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        child.wait_ready(START_LIMIT)
        yield str(child.ready["url"])
    finally:
        child.stop()


def policy_file(triton: str, runpod: str, http: int, admin: int) -> str:
    """The stack's, with the addresses that its services have here."""
    text = (STACK / "overspill.yaml").read_text()
    for old, new in (
        ("0.0.0.0:8000", f"127.0.0.1:{http}"),
        ("0.0.0.0:8002", f"127.0.0.1:{admin}"),
        ("http://triton:8000", triton),
        ("http://runpod:8080", runpod),
        ("http://otel-collector:4318", f"http://127.0.0.1:{free_port()}"),  # nobody there: it must not matter
    ):
        assert old in text
        text = text.replace(old, new)
    # The emulated Triton has neither of these ports.
    return re.sub(r"(?m)^ +(grpc|metrics): .*\n", "", text)


@pytest.mark.skipif(confined.why_not() is not None, reason=str(confined.why_not()))
def test_read_only_and_without_rights_it_serves_spills_and_drains() -> None:
    http, admin = free_port(), free_port()
    with (
        emulated("kserve", slots=4) as triton,
        emulated("runpod", boot={"fast_s": 0.1, "slow_s": 0.1}) as runpod,
    ):
        gateway = confined.start(
            [*GATEWAY, "serve", "-c", confined.POLICY_FILE],
            policy_file=policy_file(triton, runpod, http, admin).replace("4s,", "100ms,"),
            RUNPOD_API_KEY="rp-emulated",
        )
        try:
            wait_ready(f"http://127.0.0.1:{admin}/readyz", gateway)
            status = Path(f"/proc/{gateway.pid}/status").read_text()
            assert re.search(r"(?m)^Uid:\t65532\t65532\t65532", status)
            assert re.search(r"(?m)^CapEff:\t0+$", status)
            assert re.search(r"(?m)^NoNewPrivs:\t1$", status)
            with pytest.raises(OSError) as refused:
                Path(f"/proc/{gateway.pid}/root/etc/overspill").touch()
            assert refused.value.errno == errno.EROFS, "not even root could write there"
            with ThreadPoolExecutor(60) as pool:
                answers = list(pool.map(infer, [http] * 120))
            assert {backend for _, backend in answers} == {"fleet", "burst"}
            assert {tuple(total(answer)) for answer, _ in answers} == {(4.300000190734863,)}
            gateway.send_signal(signal.SIGTERM)
            printed, _ = gateway.communicate(timeout=30)
            assert gateway.returncode == 0, printed.decode()
            # Not by lines: what the gateway says for people comes through the same pipe, at any byte.
            assert len(re.findall(rb'"route": ?"totals"', printed)) == 120
            assert b"rp-emulated" not in printed
        finally:
            gateway.kill()
            gateway.communicate()


@contextmanager
def real_triton(folder: Path) -> Iterator[int]:
    """Triton itself with the stack's models; its HTTP port. The wheel has the stub of Python models elsewhere."""
    wheel = Path(sysconfig.get_path("purelib")) / "pytriton/tritonserver"
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    backend = folder / "backends/python"
    backend.mkdir(parents=True)
    for path in [
        *(wheel / "backends/python").iterdir(),
        wheel / f"python_backend_stubs/{version}/triton_python_backend_stub",
    ]:
        (backend / path.name).symlink_to(path)
    shutil.copytree(STACK / "models", folder / "models")
    port = free_port()
    process = subprocess.Popen(
        [
            wheel / "bin/tritonserver",
            f"--model-repository={folder / 'models'}",
            f"--backend-directory={folder / 'backends'}",
            "--http-address=127.0.0.1",
            f"--http-port={port}",
            "--allow-grpc=false",
            "--allow-metrics=false",
        ],
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
            "TRITON_PARALLEL_INSTANCE_LOADING": "0",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_ready(f"http://127.0.0.1:{port}/v2/health/ready", process)
        yield port
    finally:
        process.terminate()
        process.wait(40)


@pytest.mark.real_triton
@pytest.mark.skipif(triton_process.why_not() is not None, reason=str(triton_process.why_not()))
def test_triton_itself_answers_with_the_stacks_model_as_the_emulated_worker_does(tmp_path: Path) -> None:
    with emulated("kserve", slots=4) as url, real_triton(tmp_path) as port:
        real, _ = infer(port)
        spilled, _ = infer(int(url.rsplit(":", 1)[1]))
    assert total(real) == total(spilled) == [4.300000190734863]
    assert json.loads(real) == json.loads(spilled)
