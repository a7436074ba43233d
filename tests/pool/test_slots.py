import pytest

from gateway.slots import CounterSlots, SlotSource


def test_slots_are_taken_until_none_is_left_and_can_be_taken_again_after_they_came_back() -> None:
    slots: SlotSource = CounterSlots(2)
    assert slots.take()
    assert slots.take()
    assert not slots.take()
    assert (slots.in_flight, slots.free, slots.capacity) == (2, 0, 2)
    slots.give_back()
    assert (slots.in_flight, slots.free) == (1, 1)
    assert slots.take()


def test_giving_back_more_than_was_taken_is_an_error() -> None:
    slots = CounterSlots(1)
    with pytest.raises(RuntimeError, match="nobody had taken"):
        slots.give_back()
    assert slots.take()
    slots.give_back()
    with pytest.raises(RuntimeError):
        slots.give_back()
    assert slots.free == 1


def test_a_replica_without_slots_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one slot"):
        CounterSlots(0)
