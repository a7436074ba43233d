"""What gateways in front of models have been seen to get wrong, each with the tests that this one does not.

A test is named by its file under `tests/`, less `test_` and `.py`, and by its name, less `test_`.
"""

from collections.abc import Mapping
from typing import NamedTuple


class Lesson(NamedTuple):
    """One thing that goes wrong easily: what must hold, and what proves it."""

    says: str
    tests: tuple[str, ...]


OVERFLOW: Mapping[str, Lesson] = {
    "overflow-by-load": Lesson(
        "A fleet that is full, or would be too slow, sends what is too much to rented capacity, by itself.",
        (
            "wire/gateway::a_full_fleet_spills_and_says_so",
            "pool/latency_threshold::it_spills_when_predicted_wait_and_service_exceed_the_threshold",
            "pool/cheapest_in_budget::as_few_instances_are_opened_as_can_work_off_what_is_too_much",
        ),
    ),
    "pool-and-fallback-in-one-route": Lesson(
        "One route mixes an owned pool with backends elsewhere, in an order, and losing the pool is no 503.",
        (
            "wire/gateway::a_backend_that_goes_down_is_answered_for_by_the_next_tier_and_its_breaker_opens",
            "pool/spill_when_full::the_next_tier_takes_what_the_first_has_no_slot_for",
        ),
    ),
    "one-wake-for-many": Lesson(
        "What has scaled to nothing is woken once however many wait, and a failed wake is not repeated at once.",
        (
            "pool/cheapest_in_budget::instances_that_boot_already_count_and_none_is_opened_beside_them",
            "serverless/instances::calls_that_share_one_start_up_share_its_bill",
            "opening/failed_opening::after_a_failed_opening_the_first_call_is_looked_at_again_a_second_later",
        ),
    ),
    "what-full-means-is-written": Lesson(
        "What happens at capacity is a key of its own: wait so long, go on, or refuse; nothing queues unasked.",
        (
            "pool/spill_when_full::the_rule_agrees_with_its_plain_statement",
            "pool/spill_when_full::shed_stops_at_a_full_tier_but_not_at_one_that_is_lost",
            "wire/gateway::a_call_that_may_wait_gets_the_slot_that_comes_free",
        ),
    ),
    "classes-of-calls": Lesson(
        "Calls of low priority get a part of the capacity, never rented capacity, and nobody waits for them.",
        (
            "pool/best_effort::everybody_else_goes_first_whoever_came_first_and_whatever_is_due",
            "pool/best_effort::no_more_of_them_wait_or_run_than_the_limit",
            "pool/best_effort::a_rented_slot_is_never_taken_and_the_call_waits_beside_it",
        ),
    ),
    "not-the-same-place-twice": Lesson(
        "A further attempt within one call never goes back to the place that has failed it.",
        (
            "pool/pool::a_second_attempt_avoids_the_replica_that_failed_and_may_use_its_sibling",
            "pool/pool::a_second_attempt_goes_on_when_every_replica_failed_the_call",
            "lessons/commit_point::an_error_right_after_the_preamble_falls_over_and_the_client_sees_only_the_answer",
        ),
    ),
    "a-slot-is-taken-not-observed": Lesson(
        "A place is taken in the step that decides; a burst does not overshoot, and waiting for one is bounded.",
        (
            "pool/pool_properties::slots_calls_and_timers_add_up_whatever_happens",
            "wire/gateway::slots_bound_what_the_replicas_ever_see_and_both_are_used",
            "pool/pool::a_deadline_ends_the_waiting",
        ),
    ),
    "servers-do-not-push-back": Lesson(
        "Servers queue without end: the gateway bounds what each has in flight, and counts what others send.",
        (
            "pool/capacity::no_more_slots_are_handed_out_than_there_are",
            "triton/load::what_waits_there_beyond_the_gateways_own_calls_is_others",
            "triton/limiter::a_saturated_replica_is_kept_busy_and_little_waits_there",
        ),
    ),
}

LOAD: Mapping[str, Lesson] = {
    "requests-not-connections": Lesson(
        "Long-lived connections of clients do not pin their load: each request is dealt out by itself.",
        (
            "grpc_ingress/unary::200_calls_at_once_are_balanced_over_replicas_and_connections",
            "pool/capacity::calls_spread_evenly_over_replicas_of_equal_speed",
        ),
    ),
    "counts-survive-leaving": Lesson(
        "Whoever leaves, whenever, gives back exactly what the call held; probes never touch a count.",
        (
            "pool/pool_properties::slots_calls_and_timers_add_up_whatever_happens",
            "pipeline/every_call_is_booked_once::one_record_one_answer_and_nothing_left_over",
            "pool/capacity::probes_never_touch_what_is_in_flight",
            "pool/pool::a_slot_handed_over_in_the_tick_of_the_cancellation_is_not_lost",
        ),
    ),
    "full-is-not-broken": Lesson(
        "An attempt ends in one of three ways: pushing back trips no breaker, a wrong request neither, and a "
        "trial that was given up makes room for the next.",
        (
            "pool/breaker::neutral_endings_neither_trip_it_nor_end_a_row",
            "pool/breaker::a_neutral_trial_makes_room_for_the_next_and_counts_for_nothing",
            "lessons/failing_replicas::a_trial_that_is_given_up_needs_no_second_question",
            "lessons/failing_replicas::a_question_that_fails_is_the_trial_and_no_client_pays_for_it",
            "lessons/failing_replicas::a_question_that_is_never_answered_keeps_nobody_out",
            "pool/capacity::a_half_open_breaker_offers_one_slot_until_its_trial_ends",
            "wire/upstream::a_status_that_blames_the_request_is_the_clients_answer",
            "lessons/commit_point::a_pushback_inside_a_stream_trips_no_breaker",
        ),
    ),
    "429-or-503": Lesson(
        "429 is contention and 503 is nothing there, each with an honest time to come back.",
        (
            "wire/gateway::when_everything_is_taken_it_is_429_with_retry_after",
            "wire/gateway::when_nothing_is_there_it_is_503_with_retry_after_and_never_a_hang",
            "pool/pool::retry_after_is_the_time_in_which_the_queue_will_have_turned_over",
        ),
    ),
}

COLD: Mapping[str, Lesson] = {
    "who-waits-looks-again": Lesson(
        "A call that waits for a start sees what comes up meanwhile, and a start has a time limit of its own.",
        (
            "pool/pool::waiting_calls_get_the_slots_of_a_replica_that_comes_back",
            "opening/opening::a_ping_has_twice_the_expected_tail_and_at_least_a_minute",
            "triton/slots_that_move::a_fleet_without_replicas_is_blocked_until_one_comes_and_is_ready",
        ),
    ),
    "starts-are-learned": Lesson(
        "How long instances take to start is learned as a distribution, and they can be kept up where it pays.",
        (
            "estimates/cold::two_ways_of_starting_are_told_apart",
            "pool/provider_queue::how_long_boots_take_is_learned_from_those_that_were_waited_for",
            "prewarm/keep_warm::regular_gaps_just_above_the_time_out_are_bridged",
        ),
    ),
}

STREAMS: Mapping[str, Lesson] = {
    "a-cut-is-no-end": Lesson(
        "A stream that is cut, or falls silent, ends in an error event and never as if it were complete.",
        (
            "wire/gateway::a_stream_that_breaks_off_says_so_and_never_ends_cleanly",
            "lessons/commit_point::after_the_first_output_there_is_no_second_attempt",
            "lessons/cut_streams::wherever_it_is_cut_its_last_event_is_the_error",
            "lessons/cut_streams::a_client_library_reports_it",
            "wire/upstream::a_stream_cut_in_the_middle_is_never_taken_for_complete",
        ),
    ),
    "committed-by-output": Lesson(
        "The first output commits a stream, not its first byte: an error right after the preamble falls over.",
        (
            "lessons/commit_point::an_error_right_after_the_preamble_falls_over_and_the_client_sees_only_the_answer",
            "lessons/commit_point::a_stream_that_dies_after_its_preamble_falls_over",
            "lessons/commit_point::a_preamble_is_not_held_for_long",
        ),
    ),
    "one-engine": Lesson(
        "Streams and whole answers go through the same attempts, with the same budget, and nothing is resumed.",
        (
            "lessons/commit_point::falling_over_takes_a_token_of_the_retry_budget",
            "lessons/commit_point::after_the_first_output_there_is_no_second_attempt",
            "wire/gateway::a_failed_attempt_is_tried_elsewhere_and_the_client_sees_only_the_answer",
        ),
    ),
    "a-budget-for-attempts": Lesson(
        "Further attempts are a share of the load with a floor, which retries, outages and hedges share.",
        (
            "money/retry_budget::an_outage_of_any_length_is_answered_with_a_share_and_the_floor",
            "money/dispatch::an_outage_sends_no_more_elsewhere_than_the_share_and_the_floor",
            "hedge/race::without_a_place_a_token_or_money_there_is_no_hedge_and_no_error",
        ),
    ),
    "which-failures-go-on": Lesson(
        "Which failures may be tried elsewhere follows from what may have run, the same for every backend.",
        (
            "wire/upstream::each_failure_status_says_what_another_attempt_may_do",
            "conformance/broken_answers::back_pressure_is_neutral_and_says_when_to_come_back",
            "wire/gateway::a_call_that_must_run_once_is_not_tried_again_once_it_may_have_run",
        ),
    ),
    "who-leaves-stops-the-work": Lesson(
        "A client that leaves stops the work behind it; no hidden limit of connections caps the gateway.",
        (
            "wire/gateway::a_client_that_hangs_up_frees_the_slot_and_stops_the_work",
            "grpc_ingress/unary::a_cancelled_call_is_cancelled_upstream_and_gives_its_slot_back",
            "grpc_ingress/unary::the_clients_deadline_is_the_calls_and_the_replicas",
            "lessons/deadlines::a_job_is_given_no_more_time_than_its_call",
            "lessons/deadlines::a_prediction_is_stopped_when_its_call_is_over",
            "lessons/many_streams::more_than_a_thousand_streams_run_at_once_and_all_end_well",
        ),
    ),
}

MONEY: Mapping[str, Lesson] = {
    "reserve-then-settle": Lesson(
        "A budget is reserved before and settled after: calls that come together cannot spend the same dollar.",
        (
            "money/spending::no_order_of_attempts_spends_more_than_any_hour_or_day_allows",
            "money/spending::calls_that_start_together_cannot_spend_the_same_dollar",
            "workers_serving/shared_spending::processes_at_once_never_reserve_more_than_there_is",
        ),
    ),
    "own-hardware-costs": Lesson(
        "What is owned costs what it costs by the hour, idling included; a price nobody knows is never zero.",
        (
            "ledger/ledger::cost_per_thousand_holds_every_kind_and_the_share_of_idle",
            "ledger/ledger::an_unknown_price_is_never_zero",
            "money/spending::an_unknown_price_is_never_taken_for_zero",
        ),
    ),
    "limits-hold-for-all-processes": Lesson(
        "With several processes a limit is the limit of all of them, not of each.",
        (
            "workers_serving/shared_slots::what_one_worker_takes_the_other_cannot_have",
            "workers_serving/live::replicas_never_see_more_than_their_slots_and_the_views_add_up",
            "workers_serving/shared_spending::processes_at_once_never_go_beyond_the_share_of_calls",
            "idempotency/stores::two_workers_carry_a_call_out_once",
        ),
    ),
}

RUNNING: Mapping[str, Lesson] = {
    "nothing-grows-with-clients": Lesson(
        "Nothing that clients choose becomes a label or a table without end.",
        (
            "ledger/ledger::names_from_outside_never_become_labels",
            "ledger/metrics::label_values_come_from_closed_lists",
            "wire/listener::the_table_of_known_heads_is_bounded",
            "idempotency/stores::memory_is_accounted_for_to_the_last_byte",
        ),
    ),
    "bodies-pass-and-files-change": Lesson(
        "Bodies are not taken apart on their way; a new file is checked first and taken over whole or not at all.",
        (
            "protocols/hot_path::a_small_request_is_read_in_a_handful_of_calls",
            "wire/gateway::the_answer_has_the_very_bytes_of_the_server",
            "reloading/taking_over::a_wrong_file_changes_nothing_and_is_told_as_check_tells_it",
            "reloading/taking_over::hundreds_of_reloads_under_load_fail_no_request_and_leave_nothing",
        ),
    ),
}

PROOFS: Mapping[str, Lesson] = {
    "clients-unchanged": Lesson(
        "The clients that people have work unchanged, over every protocol.",
        (
            "clients/unchanged_clients::the_access_log_has_a_line_for_each_of_these_calls",
            "grpc_ingress/clients::the_streaming_client",
        ),
    ),
    "time-is-an-argument": Lesson(
        "What depends on time is tested on a clock that the test moves.",
        (
            "pool/breaker::open_times_double_up_to_thirty_seconds_within_a_tenth",
            "pool/pool::a_timer_that_rings_early_still_counts_as_its_moment",
        ),
    ),
    "books-equal-bills": Lesson(
        "Through bursts and failures the dollars in the books are those on the bill.",
        (
            "wire/money::the_books_equal_the_bills",
            "ledger/ledger::money_is_conserved",
        ),
    ),
    "processes-die": Lesson(
        "A process that is killed loses the calls that it had, and what it held comes back.",
        (
            "workers_serving/live::a_killed_worker_loses_only_the_calls_it_held",
            "workers_serving/shared_slots::what_a_dead_worker_held_is_free_after_a_while",
            "idempotency/stores::a_call_whose_process_died_is_unknown_once_its_lease_is_over",
        ),
    ),
    "faults-are-a-table": Lesson(
        "Faults are made on purpose, and what is expected of each is written down.",
        ("chaos/faults::a_fault_does_what_is_expected_of_it",),
    ),
    "every-backend-keeps-one-contract": Lesson(
        "Every kind of backend passes the same suite, which walks the registry and leaves none out.",
        (
            "conformance/backends::whatever_is_answered_becomes_a_reply_or_a_backend_error",
            "conformance/backends::nobody_there_means_that_nothing_started",
            "conformance/leaving::given_up_at_any_moment_it_leaves_nothing",
        ),
    ),
    "fakes-behave-and-bill": Lesson(
        "Fakes of servers and providers queue, boot, throttle, fail on cue and bill, and agree with the real one.",
        (
            "emulators/fleet::boot_times_have_two_modes_in_the_given_shares",
            "emulators/fleet::runpod_bills_whole_seconds_of_each_life_with_start_and_idle_tail",
            "emulators/kserve_server::trouble_cuts_the_connection_once",
            "emulators/against_triton::answers_in_json_are_the_same_bytes",
        ),
    ),
    "bursts-are-replayed": Lesson(
        "Recorded bursts run through the policies, and what they cost and miss is asserted against a bound.",
        (
            "simulator/decision::a_recorded_burst_costs_far_less_than_with_a_fleet_alone",
            "simulator/engine::ten_minutes_of_a_recorded_burst",
            "simulator/invariants::nobody_pays_less_than_the_bound_at_the_share_that_is_attained",
        ),
    ),
    "figures-are-of-valid-runs": Lesson(
        "A figure is of a run in which nothing failed, and what is added is taken against a direct call beside it.",
        (
            "bench/figures::one_failed_request_voids_the_run",
            "bench/figures::what_is_added_is_taken_from_the_same_round",
        ),
    ),
    "hedges-are-bounded": Lesson(
        "A second attempt beside the first is off unless asked for, only for what may run twice, and bounded.",
        (
            "hedge/race::what_must_not_run_twice_is_refused_in_the_file_and_left_alone_in_the_race",
            "hedge/race::the_share_bounds_the_hedges",
        ),
    ),
}

TRAPS: Mapping[str, Lesson] = {
    "slots-cover-streams": Lesson(
        "A slot is held until the last byte of a stream, not until its head.",
        (
            "wire/gateway::a_stream_arrives_as_it_is_made_and_holds_its_slot_until_the_last_byte",
            "hedge/properties::one_record_one_answer_and_nothing_left_over",
        ),
    ),
    "one-error-is-no-outage": Lesson(
        "One error takes nobody out, and a breaker is of one replica, not of all.",
        (
            "pool/breaker::five_failures_in_a_row_open_it_and_four_do_not",
            "lessons/failing_replicas::what_all_do_alike_is_nobodys_fault",
            "lessons/failing_replicas::half_of_the_replicas_stay_whatever_they_do",
            "lessons/failing_replicas::where_all_are_out_none_stays_out_for_long",
            "pool/capacity::a_backend_is_blocked_only_when_no_replica_can_take_calls_and_says_why",
            "wire/gateway::a_fleet_that_comes_back_is_used_again",
        ),
    ),
    "warm-is-seen-not-guessed": Lesson(
        "Whether something idles is learned from what was seen, and a start that nobody told of is unknown.",
        (
            "estimates/cold::what_is_seen_overrules_what_was_declared",
            "serverless/kserve::a_start_is_the_workers_word_or_unknown",
        ),
    ),
    "seconds-are-paid-once": Lesson(
        "Calls that share an instance share its seconds: wall time of each is not what all of them cost.",
        (
            "serverless/instances::every_second_of_a_life_is_billed_once",
            "serverless/instances::a_second_call_on_one_busy_instance_is_not_billed_twice",
        ),
    ),
    "requests-pass-as-they-are": Lesson(
        "Nothing is repeated that must run once, no target is quoted anew, no redirect followed, and large "
        "bodies stream.",
        (
            "wire/gateway::a_call_that_must_run_once_is_not_tried_again_once_it_may_have_run",
            "idempotency/over_http::what_may_have_run_is_never_run_again_where_it_must_not_be",
            "serverless/client::a_target_is_sent_as_it_is",
            "serverless/client::a_redirect_is_an_answer",
            "wire/gateway::a_large_binary_body_streams_through_both_ways",
        ),
    ),
    "mistakes-are-told-beforehand": Lesson(
        "A file is checked offline, every mistake at its line; a wrong one is never served, and what running it "
        "another way would have cost is told.",
        (
            "config/golden::golden",
            "wire/serve::a_bad_file_never_starts_and_says_where_it_is_bad",
            "console/one_more_replica::it_saves_where_what_it_takes_over_was_dearer",
        ),
    ),
    "it-can-be-watched": Lesson(
        "The gateway says what it does in metrics, and no lock holds requests up while it does.",
        (
            "ledger/metrics::requests_go_on_while_the_text_is_made",
            "wire/gateway::metrics_routes_and_readiness_are_on_the_admin_port_and_agree_with_the_answers",
        ),
    ),
}

LESSONS: Mapping[str, Lesson] = {
    **OVERFLOW, **LOAD, **COLD, **STREAMS, **MONEY, **RUNNING, **PROOFS, **TRAPS,
}  # fmt: skip
