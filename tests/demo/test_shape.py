"""The demo's load: calm, burst, calm, the same for the same seed."""

from random import Random

import pytest

from gateway.demo.shape import arrivals, phase_at, phases


def test_the_phases_scale_with_the_length_of_the_run() -> None:
    plan = phases(60, calm_rps=10, burst_rps=100)
    assert [(phase.begins, phase.ends, phase.rps) for phase in plan] == [
        (0, 18, 10),
        (18, 42, 100),
        (42, 60, 10),
    ]


def test_a_moment_belongs_to_the_phase_that_begins_with_it() -> None:
    plan = phases(10, calm_rps=1, burst_rps=2)
    assert [phase_at(plan, moment).name for moment in (0, 2.9, 3.0, 7.0, 99)] == [
        "calm",
        "calm",
        "burst",
        "calm again",
        "calm again",
    ]


def test_the_same_seed_gives_the_same_arrivals() -> None:
    plan = phases(20, calm_rps=20, burst_rps=150)
    assert arrivals(plan, Random(1)) == arrivals(plan, Random(1))
    assert arrivals(plan, Random(1)) != arrivals(plan, Random(2))


def test_arrivals_ascend_and_each_phase_has_its_rate() -> None:
    plan = phases(200, calm_rps=20, burst_rps=150)
    moments = arrivals(plan, Random(3))
    assert moments == sorted(moments)
    for phase in plan:
        seen = sum(phase.begins <= moment < phase.ends for moment in moments)
        # Five standard deviations of a Poisson count.
        expected = phase.rps * (phase.ends - phase.begins)
        assert seen == pytest.approx(expected, abs=5 * expected**0.5)
