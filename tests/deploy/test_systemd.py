"""The example units: systemd understands them, and they pass what the gateway takes over."""

import shutil
import subprocess
from configparser import RawConfigParser
from pathlib import Path

import pytest

from gateway.app import load_file
from tests.deploy.tools import ROOT

UNITS = ROOT / "config/systemd"


def unit(name: str) -> RawConfigParser:
    read = RawConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[assignment, method-assign]
    read.read_string((UNITS / name).read_text())
    return read


def test_their_sockets_are_those_of_a_file_that_names_none() -> None:
    listen = load_file(ROOT / "config/minimal.yaml").settings.listen
    names = unit("overspill.service")["Service"]["Sockets"].split()
    passed = {unit(name)["Socket"]["FileDescriptorName"]: unit(name)["Socket"] for name in names}
    assert {name: each["ListenStream"] for name, each in passed.items()} == {
        "http": str(listen.http),
        "admin": str(listen.admin),
    }
    assert {each["Service"] for each in passed.values()} == {"overspill.service"}


def test_the_socket_for_grpc_is_beside_the_others() -> None:
    """Not among those of the service: a file that names none serves no gRPC, and would refuse it."""
    found = unit("overspill-grpc.socket")["Socket"]
    assert dict(found) == {**dict(unit("overspill.socket")["Socket"]),
        "FileDescriptorName": "grpc", "ListenStream": "127.0.0.1:8001"
    }  # fmt: skip


def test_the_service_has_time_to_drain() -> None:
    settings = load_file(ROOT / "config/minimal.yaml").settings
    seconds = int(unit("overspill.service")["Service"]["TimeoutStopSec"])
    assert seconds >= settings.drain_delay + settings.drain_timeout + 15


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_understands_every_line(tmp_path: Path) -> None:
    for each in UNITS.iterdir():
        text = each.read_text().replace("/opt/overspill/bin/overspill", "/bin/true")
        (tmp_path / each.name).write_text(text)
    found = subprocess.run(
        ["systemd-analyze", "verify", *map(str, sorted(tmp_path.iterdir()))],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    complaints = [line for line in found.stderr.splitlines() if "overspill" in line]
    assert not complaints
