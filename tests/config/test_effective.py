"""The effective configuration is a configuration: read again, it means the same."""

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.config.effective import effective
from gateway.options import parse_duration, parse_share, parse_size
from tests.config.plugins import GOOD, read


def test_it_reads_back_to_the_same_settings() -> None:
    first = read(GOOD).settings
    text = effective(first)
    again = read(text).settings
    assert again.model_dump() == first.model_dump()
    assert effective(again) == text


def test_every_default_is_in_it() -> None:
    document = yaml.safe_load(effective(read(GOOD).settings))
    assert document["limits"]["idle_timeout"] == "75s"
    assert document["routes"]["invoke"]["policy"] == {"type": "cheapest_in_budget"}
    assert document["backends"]["fleet"]["headers"] == {}


@settings(max_examples=50, deadline=None)
@given(
    duration=st.floats(min_value=0.000001, max_value=10**9).map(lambda value: round(value, 9)),
    size=st.integers(min_value=0, max_value=2**50),
    share=st.floats(min_value=0, max_value=1).map(lambda value: round(value, 9)),
)
def test_units_read_back_exactly(duration: float, size: int, share: float) -> None:
    policy = f"{{type: skewed, skew: {share:.9f}, after: {duration:.9f}s}}"
    text = GOOD.replace("{type: skewed, skew: 20%}", policy).replace("1GiB", str(size))
    document = yaml.safe_load(effective(read(text).settings))
    written = document["routes"]["embed"]["policy"]
    assert parse_duration(written["after"]) == parse_duration(f"{duration:.9f}s")
    assert parse_share(written["skew"]) == parse_share(float(f"{share:.9f}"))
    assert parse_size(document["backends"]["burst"]["memory"]) == size


@pytest.mark.parametrize(
    ("written", "shown"),
    [("1500ms", "1.5s"), ("90s", "90s"), ("2m", "2m"), ("1h30m", "90m"), ("0.25s", "250ms"), ("1us", None)],
)
def test_durations_are_shown_as_people_write_them(written: str, shown: str | None) -> None:
    text = GOOD.replace("skew: 20%", f"skew: 20%, after: {written}")
    if shown is None:
        with pytest.raises(ValueError, match="not a duration"):
            parse_duration(written)
    else:
        document = yaml.safe_load(effective(read(text).settings))
        assert document["routes"]["embed"]["policy"]["after"] == shown
