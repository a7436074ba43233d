"""A kind of backend that was retired: whoever still names it is told where to go."""

from pathlib import Path

import pytest

from backends import backends
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.registry import Registry
from policies import policies

FILE = """
version: 1
backends:
  burst:
    type: banana
    max_in_flight: 4
routes:
  all: {tiers: [{backend: burst}]}
"""


def test_banana_is_gone_and_the_file_is_told_what_to_use(tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(FILE)
    with pytest.raises(ConfigProblems) as raised:
        load(file, backends, policies)
    (said,) = [str(problem) for problem in raised.value.problems]
    assert said.startswith(
        f"{file}:5:11: backends.burst.type: there is no backend type `banana`: Banana shut "
    )
    assert "use `runpod` or `modal`" in said
    assert "banana" not in backends


def test_what_is_there_cannot_be_retired() -> None:
    kinds: Registry[object] = Registry("backend")
    kinds.add("here")(object)
    with pytest.raises(ValueError, match="'here' is registered"):
        kinds.retire("here", "elsewhere")
    kinds.retire("gone", "elsewhere")
    assert (kinds.pointer("gone"), kinds.pointer("here"), list(kinds)) == ("elsewhere", None, ["here"])
