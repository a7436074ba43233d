"""What the locust files are made of: shapes of load, bodies, and the count of answers."""

import json
from itertools import pairwise

import pytest

from loadtests.load_parts import SHAPES, Swing, Tally, chat_question, infer_body

SWING = Swing(calm=4, burst=64, calm_s=20, burst_s=30, cycles=3)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_stays_between_calm_and_burst_reaches_both_and_ends(shape: str) -> None:
    seen = []
    for tenth in range(100_000):
        users = SHAPES[shape](tenth / 10, SWING)
        if users is None:
            break
        seen.append(users)
    else:
        pytest.fail("it does not end")
    assert (min(seen), max(seen)) == (4, 64)
    assert seen[0] == 4
    assert seen[-1] <= 5, "it ends calm"


def test_a_burst_is_sudden() -> None:
    assert [SHAPES["burst"](t, SWING) for t in (19.9, 20.0, 49.9, 50.0, 69.9, 70.0)] == [
        4,
        64,
        64,
        4,
        4,
        None,
    ]


def test_spikes_come_as_often_as_told() -> None:
    users = [SHAPES["spikes"](float(t), SWING) for t in range(170)]
    assert sum(before == 4 and after == 64 for before, after in pairwise(users)) == 3


def test_a_ramp_is_halfway_in_the_middle() -> None:
    assert SHAPES["ramp"](10.0, SWING) == SHAPES["ramp"](60.0, SWING) == 34


def test_an_inference_has_as_many_numbers_as_its_shape_says() -> None:
    body = json.loads(infer_body('{"name":"x","datatype":"INT32","shape":[2,3]}'))
    assert body == {
        "inputs": [{"name": "x", "datatype": "INT32", "shape": [2, 3], "data": [0, 1, 2, 3, 4, 5]}]
    }


def test_a_question_is_as_long_as_the_trace_says() -> None:
    question = chat_question("m", words_in=5, tokens_out=0, stream=False)
    assert question["messages"][0]["content"].split() == ["word"] * 5
    assert (question["max_tokens"], question["stream"]) == (1, False)


def test_answers_are_counted_by_where_they_came_from() -> None:
    tally = Tally()
    for backend in ("fleet", "fleet", "burst"):
        tally.add({"x-overspill-backend": backend})
    tally.add(None)
    lines = [line.split() for line in tally.lines() if line.startswith("x-overspill-backend")]
    assert lines == [
        ["x-overspill-backend", "(no", "answer)", "1", "25.0%"],
        ["x-overspill-backend", "burst", "1", "25.0%"],
        ["x-overspill-backend", "fleet", "2", "50.0%"],
    ]
