"""The real Triton from the nvidia-pytriton wheel, with a model repository of the test's own."""

import importlib.util
import shutil
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from gateway.demo.processes import Child, free_port
from gateway.demo.triton_process import _library_folder


class Addresses(NamedTuple):
    http: str
    grpc: str


@contextmanager
def own_models(repository: Path, backends: Path) -> Iterator[Addresses]:
    """Serving what lies in `repository`, for Triton's Python backend; `backends` is an empty folder."""
    spec = importlib.util.find_spec("pytriton")
    assert spec is not None
    assert spec.origin is not None
    wheel = Path(spec.origin).parent / "tritonserver"
    stub = wheel / "python_backend_stubs" / sysconfig.get_python_version() / "triton_python_backend_stub"
    shutil.copytree(wheel / "backends" / "python", backends / "python", symlinks=False)
    shutil.copy(stub, backends / "python")
    ports = {port: free_port() for port in ("http", "grpc", "metrics")}
    command = [
        str(wheel / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        "--exit-timeout-secs=1",
    ]
    command += [f"--backend-directory={backends}", "--allow-gpu-metrics=false"]
    for port, number in ports.items():
        command += [f"--{port}-address=127.0.0.1", f"--{port}-port={number}"]
    libraries = f"{_library_folder()}:{wheel.parent.parent / 'nvidia_pytriton.libs'}"
    child = Child("triton", command, env={"LD_LIBRARY_PATH": libraries})
    url = f"http://127.0.0.1:{ports['http']}"
    try:
        child.wait_answer(url + "/v2/health/ready", 60)
        yield Addresses(url, f"127.0.0.1:{ports['grpc']}")
    finally:
        child.stop(grace=15)
