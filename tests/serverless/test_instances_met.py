"""The instance table where the provider starts instances for waiting calls, and others answer them."""

import math

import pytest

from backends.instances import Instances, Ticket


def table(*, boot_s: float | None = 8.0) -> Instances:
    return Instances(idle_after=5.0, usd_per_second=1.0, boot_s=boot_s)


def owed(instances: Instances) -> float:
    return sum(charge.usd for charge in instances.settle(math.inf))


def test_what_a_call_made_start_comes_up_without_it_and_is_paid_for() -> None:
    instances = table()
    instances.leave(instances.begin(0.0, "a"), 1.0)
    assert instances.counts(7.9) == {"opening": 1, "busy": 0, "idle": 0}
    assert instances.counts(8.0) == {"opening": 0, "busy": 0, "idle": 1}
    assert owed(instances) == pytest.approx(13.0)
    assert (instances.started, instances.presumed) == (0, 1)
    assert instances.presumed_usd == pytest.approx(13.0)


def test_where_nothing_starts_for_waiting_calls_one_that_left_leaves_nothing() -> None:
    instances = table(boot_s=None)
    instances.leave(instances.begin(0.0, "a"), 1.0)
    assert not any(instances.counts(1.0).values())
    assert owed(instances) == 0.0
    assert instances.presumed == 0


def test_the_next_call_takes_over_what_comes_up_without_its_call() -> None:
    instances = table()
    instances.leave(instances.begin(0.0, "a"), 1.0)
    ticket = instances.begin(2.0, "a")
    assert instances.counts(2.0) == {"opening": 1, "busy": 0, "idle": 0}
    instances.end(ticket, 10.0, instance_id="one", age_s=9.0)
    owed(instances)
    assert (instances.started, instances.presumed) == (1, 0)


def test_an_instance_that_was_met_is_counted_once_however_the_call_ends() -> None:
    instances = table()
    ticket = instances.begin(0.0, "a")
    instances.meet(ticket, 9.0, "one", cold=True)
    assert instances.started == 1
    instances.lose(ticket, 10.0)
    again = instances.begin(11.0, "a")
    instances.end(again, 12.0, instance_id="one")
    owed(instances)
    assert (instances.started, instances.presumed) == (1, 0)


def test_a_start_that_was_anothers_is_not_counted() -> None:
    instances = table(boot_s=None)
    ticket = instances.begin(0.0, "a")
    instances.meet(ticket, 9.0, "one", cold=False, counted=False)
    instances.end(ticket, 10.0, instance_id="one", counted=False)
    assert instances.started == 0
    assert instances.knows("one", 10.0)


def test_a_call_that_had_left_is_not_met() -> None:
    instances = table()
    ticket = instances.begin(0.0, "a")
    instances.leave(ticket, 1.0)
    instances.meet(ticket, 9.0, "one", cold=True)
    assert instances.started == 0
    assert not instances.knows("one", 9.0)


def test_two_calls_change_places_where_the_one_that_should_wait_was_answered() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 9.0, instance_id="one", boot_s=8.0)
    warm, waiting = instances.begin(10.0, "a"), instances.begin(10.0, "a")
    opening = waiting.instance
    instances.meet(waiting, 10.5, "one", cold=False)
    assert waiting.instance.id == "one"
    assert warm.instance is opening
    instances.end(waiting, 11.0, instance_id="one")
    assert instances.end(warm, 19.0, instance_id="two", boot_s=8.0).billed_s == pytest.approx(9.0)
    assert instances.started == 2


def test_one_that_was_met_does_not_change_places() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 9.0, instance_id="one", boot_s=8.0)
    warm, waiting = instances.begin(10.0, "a"), instances.begin(10.0, "a")
    instances.meet(warm, 10.2, "one", cold=False)
    instances.meet(waiting, 10.5, "one", cold=False)
    assert warm.instance is waiting.instance


def test_a_call_that_saw_a_start_takes_the_place_of_the_one_for_which_it_was_presumed() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 9.0)  # no name was told
    quick, slow = instances.begin(10.0, "a"), instances.begin(10.0, "a")
    idle, opening = quick.instance, slow.instance
    instances.end(quick, 19.0, instance_id="two", boot_s=8.0)
    assert quick.instance is opening
    assert slow.instance is idle
    instances.end(slow, 19.5, instance_id="one")
    assert instances.counts(19.5) == {"opening": 0, "busy": 0, "idle": 2}
    assert instances.started == 2


def test_a_start_without_a_name_is_counted_and_leaves_no_instance() -> None:
    instances = table(boot_s=None)
    ping = instances.begin(0.0, "a", "prewarm", fresh=True)
    instances.saw_start(ping, 9.0, "")
    instances.drop(ping, 9.0)
    assert not any(instances.counts(9.0).values())
    assert instances.started == 1


def test_one_whose_start_was_told_is_known_when_it_answers_after_all() -> None:
    instances = table()
    ping = instances.begin(0.0, "a", "prewarm", fresh=True)
    instances.saw_start(ping, 9.0, "one")
    instances.drop(ping, 9.0)
    assert not any(instances.counts(9.0).values())
    call = instances.begin(10.0, "a")
    assert instances.end(call, 12.0, instance_id="one").billed_s == pytest.approx(2.0)
    assert instances.started == 1


def test_the_age_says_how_long_a_nameless_one_was_up_before_the_call() -> None:
    instances = table()
    call = instances.begin(0.0, "a")
    instances.meet(call, 1.0, "one", cold=False, age_s=20.0)
    assert instances.end(call, 1.0, instance_id="one", age_s=20.0).billed_s == pytest.approx(1.0)
    assert owed(instances) == pytest.approx(20.0 + 5.0)


def test_a_failed_call_whose_instance_nobody_named_is_told_as_presumed() -> None:
    instances = table()
    instances.end(instances.begin(0.0, "a"), 9.0)
    assert owed(instances) == pytest.approx(5.0)
    assert instances.presumed == 1
    assert instances.presumed_usd == pytest.approx(14.0)


# -- pings that an instance answers which was up before --------------------------------------------


def answered_elsewhere(instances: Instances) -> Ticket:
    """One instance is up, and a ping to open another one has been answered by it."""
    first = instances.begin(0.0, "a")
    instances.end(first, 3.5, instance_id="up", boot_s=3.0, age_s=3.0)
    ping = instances.begin(3.6, "a", fresh=True)
    instances.visit(ping, 3.8, "up", 0.1)
    return ping


def test_nothing_more_starts_for_a_ping_while_a_start_up_waits_for_nobody() -> None:
    instances = table(boot_s=3.0)
    ping = answered_elsewhere(instances)
    other = instances.begin(4.0, "a", fresh=True)
    assert other.instance is ping.origin, "the provider wants as many as there are calls"
    assert instances.counts(4.0) == {"opening": 1, "busy": 0, "idle": 1}
    for each in (ping, other):
        instances.presume(each, 6.6)
        instances.lose(each, 6.6)
    call = instances.begin(7.0, "a")
    instances.end(call, 7.5, instance_id="new", boot_s=0.0, age_s=0.4)
    assert instances.started == 2
    charged = owed(instances)
    lives = (3.5 + 0.3 + 5.0) + (7.5 - 3.6 + 5.0)
    assert charged + 3.5 + 0.5 == pytest.approx(lives, abs=0.35)
    assert (instances.presumed, instances.presumed_usd) == (0, 0.0)


def test_a_search_that_found_no_new_one_leaves_none() -> None:
    instances = table(boot_s=3.0)
    ping = answered_elsewhere(instances)
    instances.drop(ping, 9.0)
    instances.lose(ping, 9.0)
    owed(instances)
    assert (instances.started, instances.presumed) == (1, 0)


def test_a_start_told_of_by_a_call_that_failed_is_the_one_that_answers_the_next() -> None:
    instances = table(boot_s=None)
    failed, next_one = instances.begin(0.0, "a"), instances.begin(0.1, "a")
    instances.end(failed, 0.2, boot_s=0.15)  # its report told of a start, and nobody of a name
    instances.end(next_one, 0.4, instance_id="one")
    assert instances.started == 1
    assert instances.counts(0.4) == {"opening": 0, "busy": 0, "idle": 1}
    cold = instances.begin(0.5, "a", fresh=True)
    instances.end(cold, 0.9, instance_id="two", boot_s=0.15)
    assert instances.started == 2


def test_a_start_told_of_by_a_ping_that_failed_is_not_counted_again_when_it_has_a_name() -> None:
    instances = table(boot_s=None)
    failed, next_one = instances.begin(0.0, "a"), instances.begin(0.1, "a")
    instances.saw_start(failed, 0.2, "")
    instances.undo(failed)
    instances.end(next_one, 0.4, instance_id="one")
    assert instances.started == 1
    instances.end(instances.begin(0.5, "a", fresh=True), 0.9, instance_id="two")
    assert instances.started == 2, "the ping's was one"


def test_one_whose_start_was_not_told_is_counted_though_another_died_nameless() -> None:
    instances = table(boot_s=None)
    died = instances.begin(10.0, "a")
    instances.end(died, 10.3, boot_s=0.2)  # its report told of a start, and it died: nobody of a name
    call = instances.begin(11.0, "a")
    instances.end(call, 11.2, instance_id="one", age_s=5.0)  # up since long before: its own start was lost
    assert instances.started == 2


def test_by_its_age_a_nameless_one_is_known_though_another_call_was_taken_to_be_there() -> None:
    instances = table(boot_s=None)
    instances.end(instances.begin(10.0, "a"), 10.3, boot_s=0.2)
    first, second = instances.begin(11.0, "a"), instances.begin(11.0, "a")
    instances.end(second, 11.2, instance_id="one", age_s=0.8)
    assert instances.started == 1
    instances.end(first, 11.4, instance_id="two", boot_s=0.2)
    assert instances.started == 2


def test_where_no_age_is_told_the_next_unknown_one_is_the_nameless_one() -> None:
    instances = table(boot_s=None)
    instances.end(instances.begin(10.0, "a"), 10.3, boot_s=0.2)
    for name in ("one", "two"):
        instances.end(instances.begin(11.0, "a"), 11.2, instance_id=name)
    assert instances.started == 2


def test_one_that_was_told_of_under_its_name_says_nothing_of_those_without() -> None:
    instances = table(boot_s=None)
    ping = instances.begin(10.0, "a", fresh=True)
    instances.saw_start(ping, 10.2, "")
    instances.end(ping, 10.3, instance_id="one", boot_s=0.2)
    instances.end(instances.begin(10.4, "a", fresh=True), 10.5, instance_id="two", age_s=0.2)
    assert instances.started == 2


def test_a_ping_that_was_to_keep_one_up_and_saw_a_start_fail_has_seen_another_start() -> None:
    instances = table(boot_s=None)
    instances.end(instances.begin(10.0, "a"), 10.3, instance_id="one", boot_s=0.2)
    ping = instances.begin(11.0, "a", "prewarm")
    instances.saw_start(ping, 11.3, "")
    instances.drop(ping, 11.3)
    assert instances.started == 2
    assert instances.counts(11.3) == {"opening": 0, "busy": 0, "idle": 1}


def test_one_that_died_nameless_is_not_who_answers_next_however_alike_their_ages() -> None:
    instances = table(boot_s=None)
    died, call = instances.begin(10.0, "a"), instances.begin(10.0, "a")
    died.died = True
    instances.end(died, 10.3, boot_s=0.2)
    instances.end(call, 10.5, instance_id="one", age_s=0.3)
    assert instances.started == 2
