"""Triton's own gRPC client, calling all the time: `python -m tests.restarts.triton_clients PORT`.

A process of its own, because that client works with threads, which a busy event loop beside them holds up.
Says on a line now and then what became of the calls, and for the last time when its input has ended.
"""

import json
import queue
import sys
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import tritonclient.grpc as triton

PATIENCE_S = 30.0
OWN = [("grpc.use_local_subchannel_pool", 1)]
"""Each client its own connection."""
_TELL_EVERY_S = 0.1


class Kind:
    """Two threads that call in one way until told to stop."""

    def __init__(self, address: str, call: Callable[[Any], None]) -> None:
        self.answered = 0
        self.lost: list[str] = []
        self.done = False
        self._address = address
        self._call = call
        self.threads = [threading.Thread(target=self._run) for _ in range(2)]
        for thread in self.threads:
            thread.start()

    def _run(self) -> None:
        with triton.InferenceServerClient(self._address, channel_args=OWN) as client:
            while not self.done:
                try:
                    self._call(client)
                except triton.InferenceServerException as error:
                    self.lost.append(f"{error.status()} {error.message()}")
                except queue.Empty:
                    self.lost.append(f"nothing came for {PATIENCE_S} s")
                else:
                    self.answered += 1


def unary(client: Any) -> None:
    """One call."""
    client.infer("m", [_tensor()], client_timeout=PATIENCE_S)


def stream(client: Any) -> None:
    """A stream of three messages, each when the one before is answered."""
    told: queue.Queue[Any] = queue.Queue()
    client.start_stream(lambda result, error: told.put((result, error)))
    try:
        for _ in range(3):
            client.async_stream_infer("m", [_tensor()])
            _, error = told.get(timeout=PATIENCE_S)
            if error is not None:
                raise error
    finally:
        client.stop_stream()


def _tensor() -> Any:
    tensor = triton.InferInput("x", [1], "FP32")
    tensor.set_data_from_numpy(np.zeros(1, np.float32))
    return tensor


def main() -> None:
    address = f"127.0.0.1:{sys.argv[1]}"
    kinds = {"triton_calls": Kind(address, unary), "triton_streams": Kind(address, stream)}
    ended = threading.Event()
    threading.Thread(target=_listen, args=(ended,), daemon=True).start()
    while not ended.wait(_TELL_EVERY_S):
        _tell(kinds)
    for kind in kinds.values():
        kind.done = True
    for kind in kinds.values():
        for thread in kind.threads:
            thread.join()
    _tell(kinds)


def _listen(ended: threading.Event) -> None:
    sys.stdin.read()
    ended.set()


def _tell(kinds: dict[str, Kind]) -> None:
    sys.stdout.write(json.dumps({name: [kind.answered, kind.lost] for name, kind in kinds.items()}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
