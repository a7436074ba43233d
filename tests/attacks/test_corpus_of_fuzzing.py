"""Every kept input of every fuzz target again, and a few blind mutations of each."""

import random
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loadtests.fuzz.__main__ import fuzz
from loadtests.fuzz.corpus import FOLDER, kept
from loadtests.fuzz.targets import TARGETS
from loadtests.fuzz.unguided import mutated


def test_every_target_has_kept_inputs_and_every_folder_a_target() -> None:
    assert {path.name for path in FOLDER.iterdir()} == set(TARGETS)
    assert all(kept(name) for name in TARGETS)
    assert sum(len(data) for name in TARGETS for data in kept(name).values()) < 200_000


@pytest.mark.parametrize("name", TARGETS)
def test_the_kept_inputs_break_nothing(name: str) -> None:
    with closing(TARGETS[name]()) as target:
        for data in kept(name).values():
            target(data)


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "config"])
def test_nor_do_blind_mutations_of_them(name: str) -> None:
    inputs = list(kept(name).values())

    @settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(inputs), st.randoms(use_true_random=False) | st.integers().map(random.Random))
    def run(data: bytes, chance: random.Random) -> None:
        target(mutated(data, inputs, chance)[:2048])

    with closing(TARGETS[name]()) as target:
        run()


def test_a_target_is_fuzzed_for_its_share_of_the_time(tmp_path: Path) -> None:
    outcome = fuzz("reports", seconds=1, seed=1, found=tmp_path)
    assert not outcome.failed, outcome.said
    assert outcome.executions > 0
