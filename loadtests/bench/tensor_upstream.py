"""`python -m loadtests.bench.tensor_upstream PORT`: binary tensors in, canned binary tensors out.

nginx would answer before a large body is in, which no model server does. Knows no gateway.
"""

import argparse
import contextlib

import uvloop

from loadtests.bench.played_server import PlayedConnection, serve
from loadtests.bench.workload import WORKLOADS

_ANSWERS = {each.path: each for each in WORKLOADS.values() if each.answer_headers}


class TensorConnection(PlayedConnection):
    """What is sent is read and dropped."""

    keeps_body = False

    def answered(self, path: str, body: bytes) -> bool:
        workload = _ANSWERS.get(path)
        if workload is None:
            return False
        fields = {"content-type": "application/octet-stream", **workload.answer_headers}
        self.write_whole(workload.answer, "".join(f"{k}: {v}\r\n" for k, v in fields.items()).encode())
        return True


def main() -> None:
    """The command line."""
    options = argparse.ArgumentParser(prog="python -m loadtests.bench.tensor_upstream", description=__doc__)
    options.add_argument("port", type=int)
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(serve(options.parse_args().port, TensorConnection))


if __name__ == "__main__":
    main()
