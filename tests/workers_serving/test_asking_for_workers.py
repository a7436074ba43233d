"""`--workers`: what is taken, what is refused, and what each worker is allowed."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gateway.app import registries
from gateway.cli import command
from gateway.config.load import load
from gateway.config.schema import Settings
from gateway.workers.inventory import part_of
from gateway.workers.run import worker_count

FILE = """
version: 1
listen: {http: "127.0.0.1:0", admin: "127.0.0.1:0"}
backends:
  fleet: {type: triton, replicas: ["http://127.0.0.1:1"], max_in_flight: %s}
routes:
  everything: {match: {model: "*"}, tiers: [{backend: fleet}]}
"""


def serve(tmp_path: Path, *arguments: str, slots: str = "4") -> tuple[int, str]:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE % slots)
    result = CliRunner().invoke(command, ["serve", "-c", str(file), *arguments])
    return result.exit_code, result.output


def test_the_number_of_workers() -> None:
    assert worker_count("1") == 1
    assert worker_count("64") == 64
    assert worker_count("auto") == min(64, len(os.sched_getaffinity(0)))


@pytest.mark.parametrize("text", ["0", "-1", "65", "two", "", "1.5"])
def test_what_is_no_number_of_workers(tmp_path: Path, text: str) -> None:
    status, said = serve(tmp_path, "--workers", text)
    assert status == 2
    assert f"{text!r} is not a number of workers: write auto, or a number from 1 to 64" in said


def test_several_workers_cannot_record(tmp_path: Path) -> None:
    status, said = serve(tmp_path, "--workers", "2", "--record", str(tmp_path / "decisions"))
    assert status == 2
    assert "--record needs --workers 1" in said


def test_slots_that_are_learned_cannot_be_shared(tmp_path: Path) -> None:
    status, said = serve(tmp_path, "--workers", "2", slots="auto")
    assert status == 2
    assert "backend fleet has max_in_flight: auto, which workers cannot share: use --workers 1" in said


def settings(instances: int) -> Settings:
    text = f"""
version: 1
retry_budget: {{floor_per_second: 6}}
backends:
  fleet: {{type: triton, replicas: ["http://127.0.0.1:1"], max_in_flight: 4}}
routes:
  everything:
    match: {{model: "*"}}
    prewarm: {{max_instances: {instances}, usd_per_hour: 3.0}}
    tiers: [{{backend: fleet}}]
"""
    return load(text, *registries()).settings


@pytest.mark.parametrize("instances", [1, 2, 3, 7])
def test_all_parts_together_are_what_the_file_allows(instances: int) -> None:
    whole = settings(instances)
    parts = [part_of(whole, worker, 3) for worker in range(3)]
    ahead = [part.routes["everything"].prewarm for part in parts]
    assert sum(each.max_instances for each in ahead if each is not None) == instances
    assert sum(each.usd_per_hour for each in ahead if each is not None) <= 3.0
    assert sum(part.retry_budget.floor_per_second for part in parts) == 6.0
    assert whole.retry_budget.floor_per_second == 6.0
