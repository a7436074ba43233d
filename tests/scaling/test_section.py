"""The `scaling` section of the file."""

import pytest

from gateway.app import registries
from gateway.config.effective import effective
from gateway.config.load import load
from gateway.config.problems import ConfigProblems
from gateway.config.scaling import ReplicaBounds
from gateway.config.schema import Settings
from gateway.reload import fixed

FILE = """version: 1
backends:
  fleet: {type: loopback, max_in_flight: 1}
  rented: {type: loopback_rented, max_in_flight: 1}
routes:
  chat: {tiers: [{backend: fleet}, {backend: rented}]}
"""


def settings(scaling: str = "") -> Settings:
    return load(FILE + scaling, *registries()).settings


def test_without_it_the_signals_have_their_defaults() -> None:
    scaling = settings().scaling
    assert (scaling.external_scaler, scaling.grow_over, scaling.shrink_over) == (None, 600.0, 1800.0)
    assert scaling.bounds("fleet") == ReplicaBounds(min=1, max=None)


def test_it_is_read_and_written_back() -> None:
    text = (
        "scaling: {external_scaler: '127.0.0.1:9090', grow_over: 5m, shrink_over: 1h, "
        "shrink_below: 50%, replicas: {fleet: {min: 2, max: 9}}}\n"
    )
    read = settings(text)
    assert (read.scaling.bounds("fleet").min, read.scaling.bounds("fleet").max) == (2, 9)
    assert load(effective(read), *registries()).settings.scaling == read.scaling


@pytest.mark.parametrize(
    ("scaling", "told"),
    [
        ("replicas: {flet: {min: 1}}", "scaling.replicas.flet: there is no such backend; did you mean `fleet`"),
        ("replicas: {rented: {min: 1}}", "scaling.replicas.rented: is a rented backend"),
        ("replicas: {fleet: {min: 3, max: 2}}", r"max \(2\) is below min \(3\)"),
        ("grow_over: 1h", "shrink_over is shorter than grow_over"),
        ("grow_over: 1s", "scaling.grow_over"),
        ("external_scaler: 9090", "HOST:PORT"),
        ("external_skaler: '127.0.0.1:1'", "external_scaler"),
    ],
)  # fmt: skip
def test_a_mistake_is_explained(scaling: str, told: str) -> None:
    with pytest.raises(ConfigProblems, match=told):
        settings(f"scaling: {{{scaling}}}\n")


def test_a_change_needs_a_restart() -> None:
    problems = list(fixed(settings(), settings("scaling: {grow_over: 5m}\n"), "o.yaml"))
    assert [problem.path for problem in problems] == ["scaling"]
