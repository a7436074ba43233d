"""What a replica's metrics say of other clients, read from text as Triton writes it."""

import pytest

from backends.triton_load import MISSED, ModelFigures, ReplicaLoad, read_metrics

TEXT = b"""\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="digits",version="1"} 24
# TYPE nv_inference_request_duration_us counter
nv_inference_request_duration_us{model="digits",version="1"} 5000000
nv_inference_request_duration_us{gpu_uuid="GPU-1",model="digits",version="2"} 1500000
nv_inference_request_duration_us{model="a \\"b\\"} x",version="1"} 7
# TYPE nv_inference_pending_request_count gauge
nv_inference_pending_request_count{model="digits",version="1"} 3
nv_inference_pending_request_count{model="digits",version="2"} 2.000000
nv_inference_pending_request_count{model="writer",version="1"} 1
nv_inference_pending_request_count{model="odd",version="1"} NaN
nv_inference_pending_request_count{version="1"} 9
nv_inference_pending_request_count_more{model="digits",version="1"} 9
nv_cpu_utilization 0.3
"""


def test_only_the_lines_that_are_needed_are_read_and_versions_are_summed() -> None:
    assert read_metrics(TEXT) == {
        "digits": ModelFigures(5.0, 6.5),
        'a \\"b\\"} x': ModelFigures(0.0, 7e-6),
        "writer": ModelFigures(1.0, 0.0),
    }


@pytest.mark.parametrize(
    "text", [b"", b"\xff\xfe", b"<html>nv_inference_pending_request_count</html>", b"nv_inference_", b"{} 1"]
)
def test_text_that_is_something_else_says_nothing(text: bytes) -> None:
    assert read_metrics(text) == {}


@pytest.mark.parametrize("number", [b"-1", b"1e99", b"--", b"+.e", b"1.2.3"])
def test_numbers_that_make_no_sense_are_passed_over(number: bytes) -> None:
    line = b'nv_inference_pending_request_count{model="m",version="1"} ' + number
    assert read_metrics(line + b"\n") == {}


class Bench:
    """One replica, asked every second."""

    def __init__(self) -> None:
        self.load = ReplicaLoad()
        self.now = 100.0
        self.busy = 0.0

    def poll(self, *, pending: float = 0, busy: float = 0.0, model: str = "m") -> int:
        self.now += 1.0
        self.busy += busy
        load = self.load.polled({model: ModelFigures(pending, self.busy)}, {"m"}, self.now)
        assert load.at == self.now
        return load.elsewhere

    def own(self, seconds: float) -> None:
        self.load.began()
        self.load.ended(seconds)


def test_what_waits_there_beyond_the_gateways_own_calls_is_others() -> None:
    bench = Bench()
    assert bench.poll(pending=7) == 7
    for _ in range(5):
        bench.load.began()
    assert bench.poll(pending=7) == 2
    assert bench.poll(pending=4) == 0


def test_busy_time_that_is_not_the_gateways_own_is_others_once_it_lasts() -> None:
    bench = Bench()
    bench.poll()
    bench.own(2.0)
    assert bench.poll(busy=5.0) == 0, "one interval may be an accident of when calls end"
    bench.own(2.0)
    assert bench.poll(busy=5.0) == 3
    bench.own(2.0)
    assert bench.poll(busy=2.0) == 0


def test_a_call_that_ended_there_and_not_yet_here_is_not_others() -> None:
    bench = Bench()
    bench.poll()
    for _ in range(20):
        bench.load.began()
        assert bench.poll(busy=10.0) == 0
        bench.load.ended(10.01)
        assert bench.poll() == 0


def test_other_models_of_the_server_count_only_while_no_call_has_named_one() -> None:
    bench = Bench()
    assert bench.poll(pending=9, model="other") == 0
    assert bench.load.polled({"other": ModelFigures(9.0)}, (), 200.0).elsewhere == 9


def test_a_server_that_began_anew_and_a_model_seen_first_are_not_a_burst() -> None:
    bench = Bench()
    bench.poll(busy=1000.0)
    assert bench.poll() == 0
    bench.busy = 0.0
    assert [bench.poll(busy=0.5), bench.poll(busy=0.5)] == [0, 0]
    assert (
        bench.load.polled({"m": ModelFigures(0, 1.0), "n": ModelFigures(0, 900.0)}, (), 200.0).elsewhere == 0
    )


def test_after_missed_polls_the_figures_are_worth_nothing_and_intervals_start_anew() -> None:
    bench = Bench()
    bench.poll()
    assert [bench.load.missed() for _ in range(MISSED)] == [False] * (MISSED - 1) + [True]
    assert bench.poll(busy=500.0) == 0
    bench.poll(busy=3.0)
    assert bench.poll(busy=3.0) == 3, "and an answer in between forgives"
    assert not bench.load.missed()
