"""A real gateway before real processes agrees with its own simulation: seconds of the comparison script."""

import json

import pytest

from gateway.simulator.scenario import Workload
from loadtests.live_run import Figures, Live
from loadtests.live_vs_sim import agree, busiest, main, report, workload

SAID = Figures(100, 0.99, 1.0, 0.6, 0.4, 5, 20, 0, 60.0)
MEASURED = Live(100, 0.97, 1.1, 0.6, 0.5, 6, 21, 0, 61.0, metered=0.4, lag_p99_s=0.0, lag_max_s=0.0, lagged=0)


def test_the_busiest_window_is_found_and_its_length_kept() -> None:
    arrivals = [0.0, 10.0, 11.0, 11.5, 12.9, 13.5, 40.0]
    assert busiest(arrivals, 3.0) == (1, 5)
    assert busiest(arrivals, 1000.0) == (0, 7)
    assert busiest([0.0], 1.0) == (0, 1)


def test_speed_divides_every_time() -> None:
    slow = workload("poisson:5:60", "constant:600ms", 30.0, speed=1.0, seed=3)
    fast = workload("poisson:5:60", "constant:600ms", 30.0, speed=4.0, seed=3)
    assert isinstance(slow, Workload)
    assert [at / 4 for at in slow.arrivals] == pytest.approx(fast.arrivals)
    assert list(fast.services) == pytest.approx([0.15] * len(fast))
    assert slow.arrivals[0] == 0.0
    assert slow.span <= 30.0


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({}, True),
        ({"attained": 0.93}, False),
        ({"attained": 1.0, "cost": 1.14}, True),
        ({"cost": 1.16}, False),
        ({"cost": 0.84}, False),
    ],
)
def test_what_agreement_means(change: dict[str, float], same: bool) -> None:
    measured = Live(**{**vars(MEASURED), **change})
    assert agree(measured, SAID) is same


def test_the_report_says_when_the_driver_was_late() -> None:
    assert "-2.00 points" in report(MEASURED, SAID)
    assert "+10.0%" in report(MEASURED, SAID)
    assert "says little" not in report(MEASURED, SAID)
    assert "says little" in report(Live(**{**vars(MEASURED), "lagged": 2}), SAID)


def test_what_cannot_be_run_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/trace.csv"]) == 2
    assert "/nowhere/trace.csv" in capsys.readouterr().err
    assert main(["poisson:1:10", "--service", "soon"]) == 2


def test_a_live_burst_comes_out_as_simulated(capsys: pytest.CaptureFixture[str]) -> None:
    status = main(
        ["burst:4:24:20:7:4", "--seconds", "20s", "--service", "lognormal:400ms:0.4", "--budget", "6s",
         "--slots", "3", "--cold", "2s", "--idle", "3s", "--policy", "cheapest_in_budget", "--json"]
    )  # fmt: skip
    printed = capsys.readouterr()
    result = json.loads(printed.out)
    assert status == 0, printed
    assert result["live"]["requests"] == result["simulated"]["requests"] > 100
    assert result["live"]["lost"] == 0
    assert result["live"]["activations"] > 0
    assert result["live"]["spilled"] > 0
