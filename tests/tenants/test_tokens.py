"""What a call is expected to use of a tenant's tokens, and what it has used."""

import pytest

from gateway.errors import BackendBroke
from gateway.record import Record
from gateway.tenants.meter import Rates, interval
from gateway.tenants.tenant import expected_tokens, used_tokens
from gateway.vocab import Call, Outcome, Reason, Usage, WholeBody, Work

RATES = Rates(token_ns=interval(10.0), token_burst=600)


def call(protocol: str = "openai", *, body: int = 400, most: int | None = 50, **more: object) -> Call:
    return Call(
        protocol=protocol, operation=str(more.pop("operation", "chat")), method=b"POST", target=b"/",
        headers=[], body=WholeBody(b"x" * body), max_tokens=most, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def ended(usage: Usage | None, outcome: Outcome = Outcome.OK) -> Record:
    record = Record("r-1", "", 0.0)
    record.took("fleet", "0", Reason.WARM, 1.0)
    record.usage, record.outcome = usage, outcome
    return record


@pytest.mark.parametrize(
    ("what", "tokens"),
    [
        (call(), 150),
        (call(most=None), 100),
        (call(body=0, most=None), 1),
        (call(most=10_000), 600),  # it could never be let in
        (call("kserve", operation="infer", most=None), 0),
        (call("kserve", operation="generate", most=None), 100),
        (call(inference=False), 0),
    ],
)
def test_the_body_and_the_most_it_may_write_are_set_aside(what: Call, tokens: int) -> None:
    assert expected_tokens(what, RATES) == tokens
    assert expected_tokens(what, Rates()) == 0


def test_what_the_model_told_counts_and_where_it_told_nothing_what_was_set_aside() -> None:
    told = Usage(input_tokens=30, output_tokens=7)
    assert used_tokens(ended(told), 150) == 37
    assert used_tokens(ended(Usage(input_tokens=900)), 150) == 900
    assert used_tokens(ended(None), 150) == 150
    assert used_tokens(ended(Usage(billed_s=1.0)), 150) == 150
    assert used_tokens(ended(None, Outcome.BACKEND_REJECTED), 150) == 0
    assert used_tokens(ended(told), 0) == 0


def test_every_attempt_counts_and_those_that_did_not_start_do_not() -> None:
    assert used_tokens(Record("r-1", "", 0.0), 150) == 0
    record = ended(None)
    record.tried("fleet", None, 0.1, work=Work.NOT_STARTED)
    assert used_tokens(record, 150) == 0
    record.took("burst", "0", Reason.SPILL_FULL, 1.0)
    record.usage, record.outcome = Usage(input_tokens=10, output_tokens=10), Outcome.OK
    assert used_tokens(record, 150) == 20
    broken = ended(None)
    broken.fail(BackendBroke("reset"))
    assert used_tokens(broken, 150) == 150
