"""Which runs count, and what is made of them."""

from dataclasses import replace

import pytest

from loadtests.bench.figures import Limit, Run, Spread, attribute, ratios, summarise

GOOD = Run(
    peer="nginx", connections=32, round=1, requests=60_000, requests_per_s=30_000.0, p50_ms=1.0, p99_ms=3.0,
    faults=(), cpu_us_per_request=30.0, peer_share=0.97, other_side_share=0.8, foreign_share=0.01,
)  # fmt: skip


@pytest.mark.parametrize(
    ("change", "limit"),
    [
        ({}, Limit.GATEWAY),
        ({"peer_share": 0.90}, Limit.GATEWAY),
        ({"peer_share": 0.89, "other_side_share": 0.99}, Limit.OTHER_SIDE),
        ({"peer_share": 0.5, "other_side_share": 0.5}, Limit.UNCLEAR),
        ({"foreign_share": 0.11}, Limit.DISTURBED),
        ({"connections": 1, "peer_share": 0.4}, Limit.LATENCY),
        ({"connections": 1, "peer_share": 0.4, "foreign_share": 0.3}, Limit.DISTURBED),
        ({"peer_share": None, "cpu_us_per_request": None}, Limit.REFERENCE),
        ({"peer_share": None, "cpu_us_per_request": None, "foreign_share": 0.2}, Limit.DISTURBED),
        ({"paced": True, "peer_share": 0.2, "other_side_share": 0.4}, Limit.LATENCY),
        ({"paced": True, "peer_share": 0.2, "other_side_share": 0.8}, Limit.OTHER_SIDE),
        ({"paced": True, "peer_share": None, "other_side_share": 0.8}, Limit.OTHER_SIDE),
    ],
)
def test_a_run_shows_whose_limit_it_met(change: dict[str, float | None], limit: Limit) -> None:
    run = replace(GOOD, **change)  # type: ignore[arg-type]
    assert run.limit is limit
    assert run.valid == (limit in {Limit.GATEWAY, Limit.LATENCY, Limit.REFERENCE})
    assert (run.verdict == "valid") == run.valid


@pytest.mark.parametrize("change", [{"faults": ("1 status errors",)}, {"requests": 0}])
def test_one_failed_request_voids_the_run(change: dict[str, object]) -> None:
    run = replace(GOOD, **change)  # type: ignore[arg-type]
    assert run.void
    assert not run.valid
    assert run.verdict.startswith("void: ")


def test_the_verdict_names_the_side_that_was_the_limit() -> None:
    run = replace(GOOD, peer_share=0.62, other_side_share=1.0)
    assert run.verdict == "load generator and upstream were the limit (gateway's core at 62%)"


def test_interrupts_are_counted_once_whichever_way_the_kernel_counts_them() -> None:
    assert attribute(work=0.85, interrupts=0.10, ours=0.85) == pytest.approx((0.95, 0.0))  # kept apart
    assert attribute(work=0.88, interrupts=0.10, ours=0.96) == pytest.approx((0.96, 0.02))  # left in


def test_what_others_took_is_not_ours() -> None:
    share, others = attribute(work=0.9, interrupts=0.05, ours=0.5)
    assert share == pytest.approx(0.55)
    assert others == pytest.approx(0.4)


def test_a_row_is_the_median_and_range_of_the_valid_rounds() -> None:
    rates = [30_000.0, 10_000.0, 20_000.0]
    runs = [replace(GOOD, round=n, requests_per_s=rate) for n, rate in enumerate(rates)]
    runs.append(replace(GOOD, round=9, requests_per_s=99_000.0, foreign_share=0.5))
    [row] = summarise(runs)
    assert row.requests_per_s == Spread(20_000.0, 10_000.0, 30_000.0)
    assert (row.valid_rounds, row.rounds, row.lower_bound) == (3, 4, False)
    assert row.notes == ("other processes took 50% of a core",)


def test_without_a_valid_round_the_row_is_a_lower_bound_and_says_why() -> None:
    [row] = summarise([replace(GOOD, peer_share=0.6, other_side_share=1.0)] * 2)
    assert row.lower_bound
    assert row.requests_per_s is not None
    assert row.notes == ("load generator and upstream were the limit (gateway's core at 60%)",)


def test_void_rounds_give_no_figure_at_all() -> None:
    [row] = summarise([replace(GOOD, faults=("3 timeout errors",))])
    assert row.requests_per_s is None
    assert row.cpu_us_per_request is None
    assert not row.lower_bound


def test_what_is_added_is_taken_from_the_same_round() -> None:
    runs = [
        replace(GOOD, peer=peer, round=number, p50_ms=p50, event_p99_ms=late)
        for number, nobody in ((1, 1.0), (2, 50.0))
        for peer, p50, late in (("direct", nobody, None), ("nginx", nobody + 0.25, 3.0))
    ]
    direct, nginx = summarise(runs)
    assert nginx.added["p50_ms"] == Spread(0.25, 0.25, 0.25)
    assert nginx.added["event_p99_ms"] is None
    assert nginx.times["event_p99_ms"] == Spread(3.0, 3.0, 3.0)
    assert direct.added["p50_ms"] is None


def test_a_ratio_pairs_runs_of_the_same_round() -> None:
    # Both slow down tenfold in round 2; round by round one is always half of the other.
    runs = [
        replace(GOOD, peer=peer, round=number, requests_per_s=rate, cpu_us_per_request=60 / rate)
        for number, scale in ((1, 1.0), (2, 0.1))
        for peer, rate in (("overspill", 10_000.0 * scale), ("envoy", 20_000.0 * scale))
    ]
    [ratio] = ratios(runs, subject="overspill")
    assert ratio.peer == "envoy"
    assert ratio.requests_per_s == Spread(0.5, 0.5, 0.5)
    assert ratio.cpu_us_per_request == Spread(2.0, 2.0, 2.0)
    assert (ratio.rounds, ratio.valid) == (2, True)


def test_a_ratio_prefers_rounds_in_which_both_sides_were_valid() -> None:
    runs = [
        replace(GOOD, peer="overspill", round=1, requests_per_s=10.0),
        replace(GOOD, peer="envoy", round=1, requests_per_s=40.0, foreign_share=0.6),
        replace(GOOD, peer="overspill", round=2, requests_per_s=10.0),
        replace(GOOD, peer="envoy", round=2, requests_per_s=20.0),
    ]
    [ratio] = ratios(runs, subject="overspill")
    assert ratio.requests_per_s == Spread(0.5, 0.5, 0.5)
    assert (ratio.rounds, ratio.valid) == (1, True)
    [bounded] = ratios(runs[:2], subject="overspill")
    assert not bounded.valid


def test_a_void_round_makes_no_pair() -> None:
    runs = [replace(GOOD, peer="overspill"), replace(GOOD, peer="envoy", faults=("1 read errors",))]
    assert ratios(runs, subject="overspill") == []


def test_nothing_has_no_spread() -> None:
    assert Spread.of([]) is None
    assert Spread.of([3.0]) == Spread(3.0, 3.0, 3.0)
