"""Fuzz targets: files that somebody hands over, the configuration and traces of requests."""

import math
import tempfile
from pathlib import Path

from gateway.app import registries
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.errors import ConfigError
from gateway.simulator import traces
from loadtests.fuzz.target import Target


class ConfigFile(Target):
    """Settings, or problems with their places."""

    def __init__(self) -> None:
        self._registries = registries()

    def __call__(self, data: bytes) -> None:
        """A file."""
        try:
            load(data.decode("utf-8", "replace"), *self._registries)
        except ConfigProblems as problems:
            if not problems.problems:
                raise AssertionError("refused, and not said why") from problems
        except ConfigError:
            pass


class TraceFile(Target):
    """A trace in order and finite, or ValueError that names the file."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory()
        self._path = Path(self._folder.name, "trace.csv")

    def close(self) -> None:
        """Its folder."""
        self._folder.cleanup()

    def __call__(self, data: bytes) -> None:
        """A file."""
        self._path.write_bytes(data)
        try:
            trace = traces.load(self._path)
        except ValueError as error:
            if "trace" not in str(error):
                raise AssertionError("the error does not name the file") from error
            return
        arrivals = list(trace.arrivals)
        assert arrivals == sorted(arrivals)
        assert arrivals[0] == 0
        assert math.isfinite(arrivals[-1])
        assert all(len(values) == len(arrivals) for values in trace.sizes.values())
