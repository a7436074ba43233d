"""The real Triton Inference Server, on CPU, from the nvidia-pytriton wheel, with the demo's models.

    python -m gateway.demo.triton_process --weights FILE [--http-port N] [--slots N] [--pace 40ms] …

Writes one line of JSON to standard output when it is ready; everything else goes to standard error.
Ends on SIGTERM and SIGINT, and takes tritonserver with it. Must never know about the gateway.
"""

import argparse
import contextlib
import importlib.util
import json
import os
import platform
import shutil
import signal
import sys
import sysconfig
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from gateway.clock import Clock, SystemClock
from gateway.demo.models import DIGITS, WRITER, Digits, hold_until, stream, write
from gateway.demo.processes import free_port
from gateway.options import parse_duration

EXIT_S = 1
"""Seconds that tritonserver may take to unload its models; the wheel's need two for every slot."""

EXIT_CANNOT = 3
"""Exit code when Triton cannot run here at all, as opposed to having failed."""


def why_not() -> str | None:
    """Why the real Triton cannot run on this machine, or None. Imports nothing heavy."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"there is no Triton wheel for {sys.platform} on {platform.machine()}"
    if importlib.util.find_spec("pytriton") is None:
        return "the nvidia-pytriton package is not installed (pip install 'overspill[demo]')"
    if int(version("numpy").split(".")[0]) >= 2:
        return "numpy 2 is installed, whose arrays the Triton wheel misreads (pip install 'numpy<2')"
    if _library_folder() is None:
        wanted = f"libpython{sysconfig.get_python_version()}"
        return (
            f"{wanted}.so is not on this machine, which Triton's Python backend needs (apt install {wanted})"
        )
    return None


def _library_folder() -> Path | None:
    """Where the running interpreter's own libpython is."""
    names = {str(sysconfig.get_config_var(key)) for key in ("INSTSONAME", "LDLIBRARY")}
    names.add(f"libpython{sysconfig.get_python_version()}.so.1.0")
    libraries = Path(str(sysconfig.get_config_var("LIBDIR")))
    folders = [
        Path(sys.base_prefix, "lib"),
        libraries,
        libraries / str(sysconfig.get_config_var("MULTIARCH")),
    ]
    for folder in folders:
        if any((folder / name).is_file() for name in names if ".so" in name):
            return folder
    return None


def _prepare_environment() -> None:
    """Three things that Triton and the wheel only take from the environment.

    The stub of its Python backend names libpython without a folder, so the loader would take the
    system's: another patch release, whose C half does not fit this interpreter's standard library.

    The instances of a model are loaded one after another: the wheel's others wait one second for the
    first to be up, and fail for good when it is not, which a busy machine makes likely.

    Tensors travel to the model inside messages: these are small, and the wheel's tensor store, one more
    process, leaves shared memory behind when it is stopped in the middle of work.
    """
    os.environ["TRITON_PARALLEL_INSTANCE_LOADING"] = "0"
    os.environ["PYTRITON_NO_TENSORSTORE"] = "1"
    folder = _library_folder()
    if folder is not None:
        known = os.environ.get("LD_LIBRARY_PATH")
        os.environ["LD_LIBRARY_PATH"] = f"{folder}:{known}" if known else str(folder)


GONE = "tritonserver ended by itself\n"

SHARED_MEMORY = "pytrtion"
"""How the wheel begins the names of its shared memory, its process id follows (the spelling is its own)."""

Tensors = dict[str, Any]


def digits_instances(
    model: Digits, slots: int, pace: float, clock: Clock
) -> list[Callable[[list[Any]], Awaitable[list[Tensors]]]]:
    """One callable per slot, as Triton wants them: each runs one request at a time."""

    def instance() -> Callable[[list[Any]], Awaitable[list[Tensors]]]:
        async def infer(requests: list[Any]) -> list[Tensors]:
            began = clock.now()
            answers = [model.answer(request.data["pixels"])._asdict() for request in requests]
            await hold_until(clock, began, pace)
            return answers

        return infer

    return [instance() for _ in range(slots)]


def writer_instance(pace: float) -> Callable[[list[Any]], AsyncIterator[list[Tensors]]]:
    """The text model: one response with everything, or one per token when asked to stream.

    `stream` and `max_tokens` are read as tensors or as request parameters, since Triton's generate
    endpoint turns every key that names no tensor into a parameter.
    """

    async def infer(requests: list[Any]) -> AsyncIterator[list[Tensors]]:
        (request,) = requests
        text = request.data["text_input"].ravel()[0].decode("utf-8", "replace")
        most = int(_setting(request, "max_tokens", 16))
        if not _setting(request, "stream", False):  # noqa: FBT003
            yield [{"text_output": np.array(["".join(write(text, most)).encode()])}]
            return
        async for token in stream(text, most, pace):
            yield [{"text_output": np.array([token.encode()])}]

    return infer


def _setting(request: Any, name: str, default: Any) -> Any:
    if name in request.data:
        return request.data[name].ravel()[0]
    return (request.parameters or {}).get(name, default)


def _bind(triton: Any, model: Digits, options: argparse.Namespace, clock: Clock) -> None:
    from pytriton.model_config import ModelConfig, Tensor  # noqa: PLC0415 - optional, and seconds to import

    triton.bind(
        model_name=DIGITS,
        infer_func=digits_instances(model, options.slots, options.pace, clock),
        inputs=[Tensor(name="pixels", dtype=np.float32, shape=(64,))],
        outputs=[
            Tensor(name="probabilities", dtype=np.float32, shape=(10,)),
            Tensor(name="digit", dtype=np.int64, shape=(1,)),
        ],
        # No dynamic batcher: an instance runs one request, so that slots mean what the gateway counts.
        config=ModelConfig(max_batch_size=64, batcher=None),
    )
    if options.writer:
        triton.bind(
            model_name=WRITER,
            infer_func=writer_instance(options.token_pace),
            inputs=[
                Tensor(name="text_input", dtype=np.bytes_, shape=(1,)),
                Tensor(name="stream", dtype=np.bool_, shape=(1,), optional=True),
                Tensor(name="max_tokens", dtype=np.int32, shape=(1,), optional=True),
            ],
            outputs=[Tensor(name="text_output", dtype=np.bytes_, shape=(1,))],
            config=ModelConfig(batching=False, decoupled=True),
        )


def _read_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo.triton_process", allow_abbrev=False)
    parser.add_argument(
        "--weights", type=Path, required=True, help="the digits model, as Digits.save wrote it"
    )
    for port in ("http", "grpc", "metrics"):
        parser.add_argument(f"--{port}-port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--slots", type=int, default=4, help="requests that run at once")
    parser.add_argument("--pace", type=parse_duration, default=0.0, help="least time per request, like 40ms")
    parser.add_argument(
        "--token-pace", type=parse_duration, default=0.002, help="time per token of the writer"
    )
    parser.add_argument("--no-writer", dest="writer", action="store_false", help="serve only the digits")
    return parser.parse_args(arguments)


def _serve(options: argparse.Namespace, workspace: Path, tell: Callable[[str], None]) -> int:
    from pytriton.triton import Triton, TritonConfig, TritonSecurityConfig  # noqa: PLC0415

    ports = {port: getattr(options, f"{port}_port") or free_port() for port in ("http", "grpc", "metrics")}
    config = TritonConfig(
        http_address="127.0.0.1",
        grpc_address="127.0.0.1",
        metrics_address="127.0.0.1",
        http_port=ports["http"],
        grpc_port=ports["grpc"],
        metrics_port=ports["metrics"],
        allow_gpu_metrics=False,
        exit_timeout_secs=EXIT_S,
    )
    # An empty list lifts the wheel's own restriction, so that statistics work as on any Triton.
    triton = Triton(
        config=config, workspace=workspace, security_config=TritonSecurityConfig(restricted_endpoints=[])
    )
    _bind(triton, Digits.load(options.weights), options, SystemClock())
    up, asked = threading.Event(), threading.Event()

    def end(_number: int, _frame: object) -> None:
        asked.set()
        raise _Ended

    _on_signals(end)
    try:
        watching = (triton, workspace, up, asked)
        threading.Thread(target=_watch, args=watching, name="watch", daemon=True).start()
        triton.run()
        up.set()
        models = [DIGITS, WRITER] if options.writer else [DIGITS]
        urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items() if name != "grpc"}
        ready = {"ready": True, **urls, "grpc": f"127.0.0.1:{ports['grpc']}", "models": models}
        tell(json.dumps({**ready, "server": "triton", "slots": options.slots}))
        while triton.is_alive():
            asked.wait(0.5)
        sys.stderr.write(GONE)
        return 1
    except _Ended:
        return 0
    finally:
        _on_signals(signal.SIG_IGN)  # it is ending already
        up.set()
        triton.stop()
        _forget_shared_memory()


class _Ended(KeyboardInterrupt):
    """Told to end. The wheel waits inside gevent, which hands on only what it knows, as it does Ctrl-C."""


def _on_signals(handler: Any) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _watch(triton: Any, workspace: Path, up: threading.Event, asked: threading.Event) -> None:
    """While Triton starts: notice that tritonserver is gone, and that the main thread did not hear.

    The wheel itself would go on asking a server that is gone for minutes, and again when it is told to
    stop, so this process ends at once. The main thread must be the one that starts and waits: the kernel
    ends tritonserver with the thread that started it. An exception that meets a finalizer is lost, so
    the main thread is told to end until it has heard.
    """
    while not up.wait(0.2):
        server = getattr(triton, "_triton_server", None)
        process = getattr(getattr(server, "_tritonserver_running_cmd", None), "process", None)
        if asked.is_set():
            os.kill(os.getpid(), signal.SIGTERM)
        elif process is not None and _gone(process.pid):
            _forget_shared_memory()
            shutil.rmtree(workspace.parent, ignore_errors=True)
            sys.stderr.write(GONE)
            sys.stderr.flush()
            os._exit(1)


def _gone(pid: int) -> bool:
    """Whether a process has ended. Asks the kernel: the library that started it holds a lock meanwhile."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def _forget_shared_memory() -> None:
    """Remove the stubs' shared memory, which stays behind where they were cut off."""
    for left in Path("/dev/shm").glob(f"{SHARED_MEMORY}{os.getpid()}-*"):  # noqa: S108 - Linux's, not a temporary file
        left.unlink(missing_ok=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until told to end. Exit code 0; 1 when Triton failed; 3 when it cannot run here."""
    options = _read_arguments(arguments)
    reason = why_not()
    if reason is not None:
        sys.stderr.write(f"{reason}\n")
        return EXIT_CANNOT
    _prepare_environment()
    out = sys.stdout

    def tell(line: str) -> None:
        out.write(line + "\n")
        out.flush()

    # pytriton prints the server's log to standard output, which is for the ready line alone here.
    with contextlib.redirect_stdout(sys.stderr), tempfile.TemporaryDirectory(prefix="overspill-") as folder:
        return _serve(options, Path(folder, "triton"), tell)


if __name__ == "__main__":
    sys.exit(main())
