"""A real Prometheus in a process of its own, and what can be asked of it. Debian's package `prometheus`."""

import json
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any

import yaml

from gateway.demo.processes import free_port

PROMETHEUS = shutil.which("prometheus")
PROMTOOL = shutil.which("promtool")
START_LIMIT = 60.0


class Prometheus:
    """Asks a server that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def ask(self, path: str, **parameters: str | float) -> Any:
        """The `data` of an answer of its API. AssertionError with its own words where it refuses."""
        query = urllib.parse.urlencode(parameters)
        request = urllib.request.Request(f"{self.url}/api/v1/{path}?{query}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from None

    def now(self, query: str) -> list[tuple[dict[str, str], float]]:
        """What the query says now, without what is not a number."""
        found = self.ask("query", query=query)["result"]
        values = [(each["metric"], float(each["value"][1])) for each in found]
        return [(labels, value) for labels, value in values if isfinite(value)]

    def over(self, query: str, start: float, end: float, step: float) -> list[list[float]]:
        """The same for every series over a stretch of time."""
        found = self.ask("query_range", query=query, start=start, end=end, step=step)["result"]
        series = [[value for _, text in each["values"] if isfinite(value := float(text))] for each in found]
        return [values for values in series if values]

    def number(self, query: str) -> float | None:
        """The one value that the query has; None when it has none."""
        found = self.now(query)
        assert len(found) <= 1, found
        return found[0][1] if found else None


@contextmanager
def prometheus(folder: Path, target: str, rules: list[Path], *, every: str = "1s") -> Iterator[Prometheus]:
    """A server that scrapes `target` (HOST:PORT), until the end of the block."""
    assert PROMETHEUS is not None
    port = free_port()
    config = folder / "prometheus.yaml"
    config.write_text(
        yaml.safe_dump(
            {
                "global": {"scrape_interval": every, "scrape_timeout": every, "evaluation_interval": every},
                "rule_files": [str(path) for path in rules],
                "scrape_configs": [{"job_name": "overspill", "static_configs": [{"targets": [target]}]}],
            }
        )
    )
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                PROMETHEUS,
                f"--config.file={config}",
                f"--storage.tsdb.path={folder / 'data'}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--enable-feature=exemplar-storage",
                "--log.level=warn",
            ],
            stdout=log,
            stderr=log,
            env={"GOMAXPROCS": "1"},
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_ready(process, url, folder / "prometheus.log")
            yield Prometheus(url)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_ready(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    give_up = time.monotonic() + START_LIMIT
    while True:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/-/ready", timeout=5):
                return
        except OSError:
            assert time.monotonic() < give_up, log.read_text()
            time.sleep(0.05)
