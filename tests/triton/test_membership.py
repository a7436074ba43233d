"""Which replica has which index while replicas come and go, and finding them by DNS."""

from collections.abc import Sequence
from random import Random

import pytest

from backends.discovery import DiscoverOptions, DnsDiscovery, resolve
from backends.membership import Roster
from tests.support.virtual_time import LoopClock


def nobody(_: int) -> bool:
    return False


def everybody(_: int) -> bool:
    return True


def odd(index: int) -> bool:
    return index % 2 == 1


def test_known_replicas_keep_their_index_and_new_ones_get_the_next() -> None:
    roster = Roster()
    assert roster.update(["b", "a"], nobody).came == [(0, "b"), (1, "a")]
    change = roster.update(["c", "a", "b"], nobody)
    assert (change.came, change.went) == ([(2, "c")], [])


def test_an_index_is_reserved_until_its_last_call_is_over() -> None:
    roster = Roster()
    roster.update(["a", "b"], nobody)
    assert roster.update(["b"], nobody).went == [0]
    assert roster.update(["b", "c"], nobody).came == [(2, "c")]
    assert roster.update(["b", "c", "d"], everybody).came == [(0, "d")]
    assert roster.names == ["d", "b", "c"]


def test_one_that_comes_back_gets_its_index_back_and_no_other_takes_it_in_the_same_answer() -> None:
    roster = Roster()
    roster.update(["a", "b"], nobody)
    roster.update(["b"], nobody)
    assert roster.update(["x", "a", "b"], everybody).came == [(2, "x"), (0, "a")]


def test_more_than_there_may_be_are_left_out_and_known_ones_stay() -> None:
    roster = Roster(most=2)
    roster.update(["b", "c"], nobody)
    change = roster.update(["a", "b", "c", "d"], nobody)
    assert (change.came, change.went, change.left_out) == ([], [], 2)
    assert roster.update(["a", "c", "d"], everybody).came == [(0, "a")]
    assert roster.present == 2


def test_whatever_answers_come_names_and_indexes_stay_one_to_one() -> None:
    for seed in range(50):
        chance = Random(seed)
        roster = Roster(most=8)
        there: dict[int, str] = {}
        for _ in range(200):
            found = chance.sample([f"r{n}" for n in range(12)], chance.randrange(1, 12))
            change = roster.update(found, chance.choice([everybody, nobody, odd]))
            for index in change.went:
                del there[index]
            for index, name in change.came:
                assert index not in there
                there[index] = name
            assert len(set(roster.names)) == len(roster.names) <= 12 + 8
            assert set(there.values()) <= set(found)
            assert len(there) == min(8, len(found))
            assert all(roster.names[index] == name for index, name in there.items())


class Enough(Exception):
    """The test has seen what it wanted."""


class Answers:
    """A resolver that gives one answer after another, and what was made of them."""

    def __init__(self, *answers: Sequence[str] | Exception) -> None:
        self.left = list(answers)
        self.told: list[Sequence[str] | str] = []
        self.at: list[float] = []

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        assert (host, port) == ("triton.test", 8000)
        self.at.append(LoopClock().now())
        if not self.left:
            raise Enough
        answer = self.left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def run(self) -> None:
        discovery = DnsDiscovery("triton.test", 8000, every=5.0, chance=Random(1), lookup=self.resolve)
        with pytest.raises(Enough):
            await discovery.run(self.told.append, self.told.append)
        await discovery.close()


@pytest.mark.virtual_time
async def test_a_name_is_looked_up_again_and_again() -> None:
    answers = Answers(["b", "a"], ["b", "a", "c"])
    await answers.run()
    assert answers.told == [["a", "b"], ["a", "b", "c"]]
    steps = [after - before for before, after in zip(answers.at, answers.at[1:], strict=False)]
    assert all(4.5 <= step <= 5.5 for step in steps)


@pytest.mark.virtual_time
async def test_an_address_is_gone_when_two_answers_in_a_row_lack_it() -> None:
    answers = Answers(["a", "b"], ["a"], ["a", "b"], ["a"], ["a"])
    await answers.run()
    assert answers.told == [["a", "b"], ["a", "b"], ["a", "b"], ["a", "b"], ["a"]]


@pytest.mark.virtual_time
async def test_no_answer_is_a_failure_and_never_an_empty_fleet() -> None:
    answers = Answers(["a"], [], OSError(-2, "Name or service not known"), ["a"])
    await answers.run()
    assert answers.told == [
        ["a"],
        "triton.test has no address",
        "triton.test cannot be resolved: Name or service not known",
        ["a"],
    ]


async def test_the_systems_resolver_knows_this_machine() -> None:
    assert "127.0.0.1:8000" in await resolve("localhost", 8000)


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({}, "exactly one of dns and kubernetes"),
        ({"dns": "a", "kubernetes": {"service": "a"}}, "exactly one of dns and kubernetes"),
        ({"kubernetes": {"service": "a"}, "port": 8000}, "port and every are for dns"),
        ({"dns": "a b"}, "match"),
        ({"dns": "a", "every": "1ms"}, "greater than or equal"),
        ({"kubernetes": {"service": "A"}}, "match"),
        ({"kubernetes": {"service": "a", "port": 0}}, "not from 1 to 65535"),
        ({"kubernetes": {"service": "a", "api_server": "http://10.0.0.1"}}, "not the address of an API"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        DiscoverOptions.model_validate(section)
