"""One target, guided by coverage: `python -m loadtests.fuzz.guided NAME SECONDS SEED FOLDER KEPT`.

Needs atheris, which is libFuzzer underneath. Its last lines say how often the target was called.
"""

import sys

import atheris  # type: ignore[import-not-found, import-untyped, unused-ignore]

_READERS = [
    "backends.aws_event_stream", "backends.envelope", "backends.grpc_codec", "backends.grpc_messages",
    "backends.http1", "backends.json_members", "backends.load_report", "backends.protobuf_wire",
    "backends.sse",
    "gateway.auth", "gateway.body", "gateway.config", "gateway.connection", "gateway.exchange",
    "gateway.framing",
    "gateway.options", "gateway.protocols", "gateway.simulator.traces", "gateway.unswitched",
]  # fmt: skip

with atheris.instrument_imports(include=_READERS, enable_loader_override=False):
    from loadtests.fuzz.targets import LARGEST, TARGETS


def main() -> None:
    """Fuzz until the time is over or something is found."""
    name, seconds, seed, folder, kept = sys.argv[1:]
    options = [
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={LARGEST.get(name, 1024)}",
        f"-artifact_prefix={folder}/found-",
        "-timeout=20",
        "-rss_limit_mb=2048",
        "-print_final_stats=1",
    ]
    atheris.Setup([sys.argv[0], *options, f"{folder}/corpus", kept], TARGETS[name]())
    atheris.Fuzz()


if __name__ == "__main__":
    main()
