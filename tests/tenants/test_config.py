"""The `tenants` section: what is refused, and what is doubted."""

import pytest

from gateway.app import registries
from gateway.config.load import load
from gateway.config.problems import ConfigProblems

FILE = """
version: 1
auth: {auth}
tenants: {tenants}
backends:
  fleet: {{type: triton, replicas: ["http://127.0.0.1:1"], max_in_flight: 4{price}}}
routes:
  one: {{match: {{model: m}}, tiers: [{{backend: fleet}}]}}
"""
PRICED = ", price: {usd_per_replica_hour: 1}"


def text(tenants: str, *, auth: str = "{anonymous: {tenant: acme}}", price: str = PRICED) -> str:
    return FILE.format(tenants=tenants, auth=auth, price=price)


def warned(file: str) -> list[str]:
    return [str(each) for each in load(file, *registries()).warnings if "tenants" in str(each)]


@pytest.mark.parametrize(
    ("tenants", "said"),
    [
        ("{acme: {requests_per_second: 1, requests_per_minute: 1}}", "not both"),
        ("{acme: {burst: 1}}", "give requests_per_second or requests_per_minute"),
        ("{acme: {requests_per_second: 0}}", "tenants.acme.requests_per_second"),
        ("{acme: {max_concurrent: 0}}", "tenants.acme.max_concurrent"),
        ("{acme: {on_exhausted: queue}}", "tenants.acme.on_exhausted"),
        ("{other: {max_concurrent: 1}}", "`default` limits these"),
        ("{'a b': {max_concurrent: 1}}", "tenants"),
    ],
)
def test_what_makes_no_sense_is_refused(tenants: str, said: str) -> None:
    with pytest.raises(ConfigProblems, match=said):
        load(text(tenants), *registries())


def test_a_limit_in_dollars_without_a_price_is_doubted() -> None:
    assert warned(text("{acme: {usd_per_day: 5}}")) == []
    (said,) = warned(text("{acme: {usd_per_day: 5}}", price=""))
    assert "tenants.acme.usd_per_day" in said
    assert "backend `fleet` has no price" in said
    assert warned(text("{acme: {max_concurrent: 5}}", price="")) == []


def test_a_tenant_that_nobody_can_be_is_doubted() -> None:
    (said,) = warned(text("{acme: {max_concurrent: 5}, default: {max_concurrent: 9}}", auth="none"))
    assert "without `auth` no call has a tenant" in said


def test_an_hour_that_allows_more_than_the_day_is_doubted() -> None:
    (said,) = warned(text("{acme: {usd_per_hour: 5, usd_per_day: 1}}"))
    assert "will never be reached" in said
