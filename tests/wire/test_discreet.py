"""What is made for every call holds credentials and bodies: printed, it tells nothing of them."""

import gateway.dispatch
import gateway.exchange
from backends.openai_fleet import OpenAIFleet
from backends.replica_connections import Attempt
from gateway.body import ArrivedBody
from gateway.vocab import Call, Discreet, Reply, WholeBody

SECRET = b"sk-do-not-tell"


def kinds(of: type[object]) -> list[type[object]]:
    return [kind for each in of.__subclasses__() for kind in (each, *kinds(each))]


def test_nothing_of_a_call_is_told_by_what_holds_it() -> None:
    body = ArrivedBody(SECRET, len(SECRET), 100)
    call = Call(
        protocol="openai",
        operation="chat",
        method=b"POST",
        target=b"/v1/chat/completions?key=" + SECRET,
        headers=[(b"authorization", SECRET)],
        body=WholeBody(SECRET),
    )
    holders: list[object] = [body, call, Reply(200, [(b"set-cookie", SECRET)], SECRET)]
    for each in holders:
        assert SECRET.decode() not in f"{each} {each!r} {[each]}"


def test_that_holds_for_all_of_them() -> None:
    found = kinds(Discreet)
    assert {Call, Reply, Attempt, gateway.exchange.Exchange, gateway.dispatch.Sending} <= set(found)
    assert OpenAIFleet.__module__ in {kind.__module__ for kind in found}
    for kind in found:
        assert vars(kind).get("__repr__", object.__repr__) is object.__repr__, kind
