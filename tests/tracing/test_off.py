"""Without a `tracing` section nothing of it is there; and one that is wrong is refused with a word of why."""

import subprocess
import sys

import pytest

from gateway import app
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from tests.support.gateways import running

FILE = """
backends:
  fleet: {type: triton, replicas: ['http://127.0.0.1:9'], max_in_flight: 1, price: {usd_per_replica_hour: 1}}
routes:
  all: {match: {model: m}, tiers: [{backend: fleet}]}
"""


async def test_a_gateway_without_tracing_has_no_tracer_anywhere() -> None:
    async with running(FILE) as gateway:
        assert gateway.tracing is None
        assert gateway.pipeline._tracer is None
        assert gateway.ledger.traced is None


def test_opentelemetry_is_not_even_imported() -> None:
    look = "import sys, gateway.app; print(sorted(name for name in sys.modules if name.startswith('opentelemetry')))"
    found = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ("{sample: 1%}", "endpoint"),
        ("{endpoint: 'localhost:4318'}", "http://HOST:PORT"),
        ("{endpoint: 'http://user:planted@host:4318'}", "without user"),
        ("{endpoint: 'http://host:4318?key=planted'}", "query"),
        ("{endpoint: 'http://host:4317/v1/traces', protocol: grpc}", "no path"),
        ("{endpoint: 'http://host:4318', protocol: udp}", "grpc"),
        ("{endpoint: 'http://host:4318', sample: 200%}", "not a share"),
        ("{endpoint: 'http://host:4318', headers: {x-api-key: planted}}", "secret"),
        ("{endpoint: 'http://host:4318', headers: {x-api-key: {env: SURELY_NOT_SET}}}", "SURELY_NOT_SET"),
    ],
)
def test_a_section_that_is_wrong_is_refused_and_not_repeated(section: str, said: str) -> None:
    with pytest.raises(ConfigProblems) as caught:
        load(f"version: 1\ntracing: {section}\n{FILE}", *app.registries())
    assert said in str(caught.value)
    assert "planted" not in str(caught.value)
