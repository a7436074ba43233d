"""The instance table: guesses, corrections, and every billed second exactly once."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.instances import Boot, Instances, Ticket, take_boot
from gateway.vocab import Charge


def table(*, idle_after: float = 5.0, usd: float | None = 1.0, round_up_to: float = 0.0) -> Instances:
    return Instances(idle_after=idle_after, usd_per_second=usd, round_up_to=round_up_to)


def test_the_first_call_makes_an_instance_open() -> None:
    instances = table()
    ticket = instances.begin(0.0, "embed")
    assert instances.counts(0.0) == {"opening": 1, "busy": 0, "idle": 0}
    instances.running(ticket)
    assert instances.counts(0.0) == {"opening": 0, "busy": 1, "idle": 0}
    instances.end(ticket, 3.0)
    assert instances.counts(3.0) == {"opening": 0, "busy": 0, "idle": 1}
    assert instances.counts(8.0) == {"opening": 0, "busy": 0, "idle": 0}


def test_the_most_recently_used_idle_instance_is_taken_first() -> None:
    instances = table(idle_after=10.0)
    first, second = instances.begin(0.0, "a"), instances.begin(0.0, "a")
    instances.end(first, 1.0, instance_id="one")
    instances.end(second, 2.0, instance_id="two")
    ticket = instances.begin(3.0, "a")
    assert ticket.instance.id == "two"
    instances.end(ticket, 4.0)
    # The other one was left alone, so it is gone first.
    assert instances.counts(11.5)["idle"] == 1
    assert instances.knows("two", 11.5)
    assert not instances.knows("one", 11.5)


def test_a_start_up_is_billed_to_the_call_that_waited_for_it() -> None:
    instances = table()
    ticket = instances.begin(0.0, "embed")
    span = instances.end(ticket, 9.0, boot_s=8.0)
    assert (span.boot_s, span.busy_s, span.billed_s) == (8.0, 1.0, 9.0)


def test_calls_that_share_one_start_up_share_its_bill() -> None:
    instances = table()
    first, second = instances.begin(0.0, "a"), instances.begin(0.5, "a")
    assert instances.end(first, 9.0, instance_id="one", boot_s=8.0).billed_s == 9.0
    span = instances.end(second, 9.2, instance_id="one", boot_s=8.0)
    assert span.boot_s == 0.0
    assert span.busy_s == pytest.approx(0.2)
    assert instances.counts(9.2) == {"opening": 0, "busy": 0, "idle": 1}


def test_the_idle_gap_goes_to_the_route_before_it() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "first"), 1.0)
    instances.end(instances.begin(3.0, "second"), 4.0)
    assert instances.settle(4.0) == [Charge("first", "spill", 2.0)]
    assert instances.settle(8.9) == []
    assert instances.settle(9.0) == [Charge("second", "spill", 5.0)]
    assert instances.settle(100.0) == []


def test_closing_down_settles_what_is_idle() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 1.0)
    assert instances.settle(math.inf) == [Charge("a", "spill", 5.0)]


def test_a_life_is_rounded_up_once() -> None:
    instances = table(idle_after=5.0, round_up_to=1.0)
    instances.end(instances.begin(0.0, "a"), 2.3, boot_s=1.9)
    # 2.3 s to the call and 5 s idle make 7.3 s, billed as 8.
    (charge,) = instances.settle(10.0)
    assert charge.usd == pytest.approx(5.7)


def test_a_whole_number_of_seconds_is_not_rounded_up() -> None:
    instances = table(idle_after=5.0, round_up_to=1.0)
    for start in (0.1, 0.2, 0.3):
        instances.end(instances.begin(start, "a"), start + 0.1)
    total = sum(charge.usd for charge in instances.settle(math.inf))
    assert total == pytest.approx(6.0 - 0.3)


def test_a_call_that_never_ran_leaves_no_trace() -> None:
    instances = table()
    instances.undo(instances.begin(0.0, "a"))
    assert instances.counts(0.0) == {"opening": 0, "busy": 0, "idle": 0}
    instances.end(instances.begin(0.0, "a"), 1.0)
    instances.undo(instances.begin(2.0, "a"))
    assert instances.counts(3.0)["idle"] == 1
    assert instances.settle(6.0) == [Charge("a", "spill", 5.0)]


def test_a_call_that_was_cut_off_is_a_charge() -> None:
    instances = table()
    ticket = instances.begin(0.0, "a")
    instances.lose(ticket, 2.0)
    instances.lose(ticket, 3.0)
    assert instances.settle(2.0) == [Charge("a", "spill", 2.0)]


def test_an_unknown_price_charges_nothing_rather_than_zero() -> None:
    instances = table(usd=None)
    instances.end(instances.begin(0.0, "a"), 1.0)
    instances.lose(instances.begin(1.0, "a"), 2.0)
    assert instances.settle(math.inf) == []


def test_an_id_corrects_the_guess() -> None:
    instances = table(idle_after=10.0)
    first, second = instances.begin(0.0, "a"), instances.begin(0.0, "b")
    instances.end(first, 1.0, instance_id="one")
    instances.end(second, 2.0, instance_id="two")
    # Guessed on `two`; it says that it ran on `one`, whose idle second ends there.
    instances.end(instances.begin(3.0, "c"), 4.0, instance_id="one")
    assert instances.settle(4.0) == [Charge("a", "spill", 2.0)]
    # And `two` has been idle since 2.0 all the while.
    assert instances.settle(12.0) == [Charge("b", "spill", 10.0)]
    assert instances.counts(12.0)["idle"] == 1


def test_a_new_id_is_a_new_instance_and_the_guess_stays_idle() -> None:
    instances = table(idle_after=10.0)
    instances.end(instances.begin(0.0, "a"), 1.0, instance_id="one")
    ticket = instances.begin(2.0, "a")
    assert instances.end(ticket, 8.0, instance_id="new", boot_s=5.0).boot_s == 5.0
    assert instances.counts(8.0)["idle"] == 2


def test_a_cold_start_without_an_id_was_no_reuse() -> None:
    instances = table(idle_after=10.0)
    instances.end(instances.begin(0.0, "a"), 1.0)
    instances.end(instances.begin(2.0, "a"), 8.0, boot_s=5.0)
    assert instances.counts(8.0)["idle"] == 2


def test_a_second_call_on_one_busy_instance_is_not_billed_twice() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 1.0, instance_id="one")
    first = instances.begin(2.0, "a")
    second = instances.begin(2.5, "b")  # the table expects a second instance
    assert instances.end(second, 4.0, instance_id="one").busy_s == pytest.approx(1.5)
    assert instances.counts(4.0) == {"opening": 0, "busy": 1, "idle": 0}
    assert instances.end(first, 5.0, instance_id="one").busy_s == pytest.approx(1.0)
    assert instances.counts(5.0) == {"opening": 0, "busy": 0, "idle": 1}


@pytest.mark.parametrize(
    ("headers", "boot"),
    [
        ([], None),
        ([(b"x-overspill-boot-age", b"1")], None),
        ([(b"x-overspill-boot-id", b"a"), (b"x-overspill-boot-age", b"1.5")], Boot("a", 1.5)),
        ([(b"x-overspill-boot-id", b"a")], Boot("a", None)),
        ([(b"x-overspill-boot-id", b"a"), (b"x-overspill-boot-age", b"soon")], Boot("a", None)),
        ([(b"x-overspill-boot-id", b"a"), (b"x-overspill-boot-age", b"nan")], Boot("a", None)),
        ([(b"x-overspill-boot-id", b"a"), (b"x-overspill-boot-age", b"-1")], Boot("a", None)),
    ],
)
def test_the_workers_fields_are_taken_off(headers: list[tuple[bytes, bytes]], boot: Boot | None) -> None:
    assert take_boot([*headers, (b"a", b"b")]) == ([(b"a", b"b")], boot)


LIFE = st.lists(
    st.tuples(st.floats(0, 12), st.floats(0.01, 5), st.floats(0, 3), st.booleans()), min_size=1, max_size=12
)


@given(life=LIFE, rounding=st.sampled_from([0.0, 1.0]), idle_after=st.sampled_from([0.5, 5.0]))
def test_every_second_of_a_life_is_billed_once(
    life: list[tuple[float, float, float, bool]], rounding: float, idle_after: float
) -> None:
    """One call after the other: boot + use + idle until reuse or `idle_after`, rounded per life."""
    instances = table(idle_after=idle_after, round_up_to=rounding)
    now, to_calls, expected = 0.0, 0.0, 0.0
    current = 0.0  # billed seconds of the life that is going on
    for gap, busy, boot, named in life:
        fresh = current == 0.0 or gap >= idle_after
        if fresh and current:
            expected += _rounded(current + idle_after, rounding)
            current = 0.0
        now += gap
        ticket = instances.begin(now, "a")
        spent = busy + boot if fresh else busy
        now += spent
        span = instances.end(
            ticket, now, boot_s=boot if fresh else 0.0, instance_id="" if not named else f"i{expected}"
        )
        to_calls += span.billed_s
        current += spent if fresh else gap + spent
    expected += _rounded(current + idle_after, rounding)
    charged = sum(charge.usd for charge in instances.settle(math.inf))
    assert to_calls + charged == pytest.approx(expected, abs=1e-6)
    assert instances.settle(math.inf) == []


def _rounded(seconds: float, unit: float) -> float:
    return math.ceil(seconds / unit - 1e-9) * unit if unit else seconds


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["begin", "end", "undo", "lose"]),
        st.floats(0, 4),
        st.integers(0, 5),
        st.sampled_from(["", "one", "two", "three"]),
        st.sampled_from([None, 0.0, 2.0]),
    ),
    max_size=40,
)


@given(steps=STEPS)
def test_no_story_of_calls_breaks_the_table(
    steps: list[tuple[str, float, int, str, float | None]],
) -> None:
    """Whatever comes back in whatever order: no state is skipped, nothing is negative, all ends idle or gone."""
    instances = table(idle_after=3.0, round_up_to=1.0)
    now = 0.0
    open_tickets: list[Ticket] = []
    for event, wait, pick, instance_id, boot_s in steps:
        now += wait
        if event == "begin" or not open_tickets:
            open_tickets.append(instances.begin(now, "a"))
            continue
        ticket = open_tickets.pop(pick % len(open_tickets))
        if event == "end":
            span = instances.end(ticket, now, instance_id=instance_id, boot_s=boot_s)
            assert span.boot_s >= 0
            assert span.busy_s >= 0
        elif event == "undo":
            instances.undo(ticket)
        else:
            instances.lose(ticket, now)
        counts = instances.counts(now)
        assert counts["opening"] + counts["busy"] <= len(open_tickets)
    for ticket in open_tickets:
        instances.lose(ticket, now)
    assert all(charge.usd > 0 for charge in instances.settle(math.inf))
    assert sum(instances.counts(math.inf).values()) == 0


def test_a_ping_opens_beside_what_idles_and_its_idling_is_its_own_until_a_call_uses_it() -> None:
    instances = table(idle_after=10.0)
    instances.end(instances.begin(0.0, "a"), 1.0, instance_id="one")
    ping = instances.begin(2.0, "b", "prewarm", fresh=True)
    assert instances.counts(2.0) == {"opening": 1, "busy": 0, "idle": 1}
    assert instances.end(ping, 5.0, instance_id="two", boot_s=3.0).billed_s == 3.0
    call = instances.begin(7.0, "a")
    assert call.instance.id == "two"
    instances.end(call, 8.0, instance_id="two")
    assert instances.settle(8.0) == [Charge("b", "prewarm", 2.0)]
    assert instances.settle(math.inf) == [Charge("a", "spill", 10.0), Charge("a", "spill", 10.0)]


def test_a_ping_that_ran_where_something_idled_pays_its_seconds_and_renews_the_idling() -> None:
    instances = table(idle_after=10.0)
    instances.end(instances.begin(0.0, "a"), 1.0, instance_id="one")
    ping = instances.begin(2.0, "b", "prewarm", fresh=True)
    instances.visit(ping, 4.0, "one", 0.5)
    assert instances.settle(4.0) == [Charge("a", "spill", 2.5), Charge("b", "prewarm", 0.5)]
    assert instances.knows("one", 13.9)
    instances.undo(ping)
    assert instances.settle(math.inf) == [Charge("a", "spill", 10.0)]


def test_a_ping_that_ran_before_a_call_that_runs_is_within_what_the_calls_end_finds() -> None:
    instances = table(idle_after=10.0)
    instances.end(instances.begin(0.0, "a"), 1.0, instance_id="one")
    ping = instances.begin(1.0, "b", "prewarm", fresh=True)
    call = instances.begin(2.0, "a")
    instances.visit(ping, 3.0, "one", 0.5)
    instances.undo(ping)
    instances.end(call, 6.0, instance_id="one", busy_s=2.0)
    assert sum(charge.usd for charge in instances.settle(6.0)) == 3.0


def test_a_ping_that_failed_leaves_its_seconds_and_no_instance() -> None:
    instances = table()
    ping = instances.begin(2.0, "b", "prewarm", fresh=True)
    instances.drop(ping, 4.0)
    instances.drop(ping, 9.0)
    assert instances.counts(4.0) == {"opening": 0, "busy": 0, "idle": 0}
    assert instances.settle(math.inf) == [Charge("b", "prewarm", 2.0)]


def test_an_instance_that_answers_after_it_should_have_gone_is_paid_for_once() -> None:
    """Clocks and networks differ: it may have been used again just before it would have been stopped."""
    instances = table(idle_after=5.0)
    ticket = instances.begin(0.0, "a")
    assert instances.end(ticket, 4.0, instance_id="one", boot_s=3.0).billed_s == 4.0
    ticket = instances.begin(8.9, "a")
    assert instances.counts(8.9)["busy"] == 1
    other = instances.begin(9.0, "b", "prewarm", fresh=True)
    instances.undo(ticket)
    assert instances.settle(9.1) == [Charge("a", "spill", 5.0)]
    span = instances.end(other, 9.5, instance_id="one", boot_s=9.0)
    assert (span.boot_s, span.busy_s) == (0.0, 0.5)
    assert sum(charge.usd for charge in instances.settle(math.inf)) == 5.0


def test_it_is_remembered_for_a_while_only() -> None:
    instances = table(idle_after=1.0)
    for number in range(300):
        instances.end(instances.begin(2.0 * number, "a"), 2.0 * number + 1, instance_id=str(number))
    ticket = instances.begin(700.0, "a")
    assert instances.end(ticket, 701.0, instance_id="0", boot_s=1.0).boot_s == 1.0
