"""Draws depend on seed and index alone, and follow the distribution that was written down."""

from __future__ import annotations

import math
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.simulator.distributions import draws, is_distribution, parse, stream, uniform
from gateway.simulator.expression import compile_expression
from gateway.simulator.traces import Trace

FORMS = ["lognormal:6s:0.4", "exponential:2s", "constant:500ms"]


@pytest.mark.parametrize("text", FORMS)
def test_draws_have_the_mean_and_the_quantiles_that_are_told(text: str) -> None:
    distribution = parse(text)
    sample = sorted(draws(distribution, stream(7, "cold"), 20_000))
    assert math.fsum(sample) / len(sample) == pytest.approx(distribution.mean(), rel=0.03)
    for share in (0.05, 0.5, 0.99):
        assert sample[int(share * len(sample))] == pytest.approx(distribution.quantile(share), rel=0.1)


def test_the_forms_mean_what_they_say() -> None:
    cold = parse("lognormal:6s:0.4")
    assert cold.quantile(0.5) == pytest.approx(6.0)
    assert cold.mean() == pytest.approx(6 * math.exp(0.08))
    assert parse("exponential:2m").mean() == 120
    assert parse("constant:0.25").draw(1, 2) == 0.25
    assert parse("constant:1m30s").mean() == 90


def test_empirical_draws_come_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cold.txt"
    path.write_text("# measured\n3s\n\n250ms\n1.5\n3000ms\n")
    distribution = parse(f"empirical:{path}")
    assert distribution.mean() == pytest.approx((3 + 0.25 + 1.5 + 3) / 4)
    assert [distribution.quantile(share) for share in (0.01, 0.25, 0.26, 0.5, 0.51, 0.99)] == [
        0.25, 0.25, 1.5, 1.5, 3, 3,
    ]  # fmt: skip
    assert set(draws(distribution, 5, 200)) == {0.25, 1.5, 3.0}


@given(seed=st.integers(0, 2**64 - 1), index=st.integers(0, 2**40), text=st.sampled_from(FORMS))
def test_a_draw_is_the_same_in_whatever_order_it_is_asked_for(seed: int, index: int, text: str) -> None:
    first = parse(text).draw(seed, index)
    distribution = parse(text)
    distribution.draw(seed, index + 1)
    assert distribution.draw(seed, index) == first >= 0
    assert 0 < uniform(seed, index) < 1


def test_streams_of_different_names_are_unrelated() -> None:
    seeds = {stream(seed, name) for seed in range(50) for name in ("service", "cold:a", "cold:b")}
    assert len(seeds) == 150
    one, other = ([uniform(stream(1, name), row) for row in range(5000)] for name in ("a", "b"))
    mean = math.fsum((x - 0.5) * (y - 0.5) for x, y in zip(one, other, strict=True)) / 5000
    assert abs(mean) < 0.01  # of a variance of 1/12


@pytest.mark.parametrize(
    "text",
    [
        "gamma:1", "lognormal", "lognormal:6s", "lognormal:6s:0.4:1", "lognormal:6s:wide", "lognormal:6s:-1",
        "lognormal:6s:nan", "exponential:", "exponential:-2", "exponential:inf", "constant:two",
        "constant:2x", "1+2",
    ],
)  # fmt: skip
def test_mistakes_quote_the_text(text: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse(text)
    assert text in str(caught.value)


def test_a_bad_empirical_file_says_which_line(tmp_path: Path) -> None:
    path = tmp_path / "cold.txt"
    path.write_text("1s\nsoon\n")
    with pytest.raises(ValueError, match="line 2: 'soon'"):
        parse(f"empirical:{path}")
    path.write_text("# nothing\n")
    with pytest.raises(ValueError, match="no times"):
        parse(f"empirical:{path}")


def test_an_expression_is_no_distribution() -> None:
    assert is_distribution("lognormal:0.6s:0.4")
    assert not is_distribution("0.15+0.0002*input_tokens")
    assert not is_distribution("constant")


TRACE = Trace(
    "sample",
    array("d", [0, 1, 2]),
    {"input_tokens": array("d", [1000, 0, 500]), "output_tokens": array("d", [10, 20, 30])},
)


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("0.15+0.0002*input_tokens+0.012*output_tokens", [0.47, 0.39, 0.61]),
        ("2", [2, 2, 2]),
        (" -(-3) * 2 ", [6, 6, 6]),
        ("(input_tokens - 0) / output_tokens", [100, 0, 500 / 30]),
        ("max(min(input_tokens, 600), output_tokens, 25)", [600, 25, 500]),
        ("+output_tokens", [10, 20, 30]),
        ("min(1, 2)", [1, 1, 1]),
    ],
)
def test_expressions(text: str, values: list[float]) -> None:
    assert list(compile_expression(text)(TRACE)) == pytest.approx(values)


@pytest.mark.parametrize(
    "text",
    [
        "", "1 +", "__import__('os')", "input_tokens.real", "input_tokens[0]", "[1]", "'a'", "True", "1 if 2 else 3",
        "2 ** 99", "10 % 3", "7 // 2", "max(1)", "max(*input_tokens)", "max(1, 2, key=3)", "abs(1)", "(x := 1)",
        "lambda: 1", "1 < 2", "1j", "(" * 3000 + "1" + ")" * 3000, "-" * 1990 + "1", "9" * 400,
    ],
)  # fmt: skip
def test_anything_but_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        compile_expression(text)(TRACE)


def test_mistakes_in_values_name_the_request() -> None:
    with pytest.raises(ValueError, match=r"no column 'tokens'; it has input_tokens, output_tokens"):
        compile_expression("0.1 * tokens")(TRACE)
    with pytest.raises(ValueError, match=r"is -1\.0 for request 1 \(input_tokens 0"):
        compile_expression("input_tokens - 1")(TRACE)
    with pytest.raises(ValueError, match="division by 0 for request 1"):
        compile_expression("output_tokens / input_tokens")(TRACE)
    with pytest.raises(ValueError, match="division by 0"):
        compile_expression("1 / 0")(TRACE)
    with pytest.raises(ValueError, match="is inf for request 0"):
        compile_expression("1e308 * 1e10 * output_tokens")(TRACE)
