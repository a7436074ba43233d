"""config/access_log.schema.json is the promise to those who read the log; lines of a whole gateway keep it."""

import asyncio
import json
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from gateway.access_log import Line
from gateway.simulator.traces import load
from gateway.vocab import Outcome, Reason, Start
from tests.support.gateways import port_of, running
from tests.support.upstream import Received, ok, upstream
from tests.support.wire import Peer

SCHEMA: dict[str, Any] = json.loads(Path("config/access_log.schema.json").read_text(encoding="utf-8"))
INFER = b'{"inputs":[{"name":"x","shape":[1],"datatype":"INT32","data":[1]}]}'
SECRET = b"authorization: Bearer planted\r\nx-api-key: planted\r\ncookie: planted\r\n"


@pytest.fixture(scope="module")
def validator() -> Any:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    return jsonschema.Draft202012Validator(SCHEMA, format_checker=jsonschema.FormatChecker())


def test_it_names_every_field_in_the_order_of_a_line() -> None:
    assert list(SCHEMA["properties"]) == SCHEMA["required"] == list(Line.__struct_fields__)
    assert all(field["description"] for field in SCHEMA["properties"].values())


def test_a_field_may_be_null_where_the_line_may_leave_it_unknown() -> None:
    (line,) = msgspec.json.schema(Line)["$defs"].values()
    for name, field in line["properties"].items():
        promised = SCHEMA["properties"][name]
        may = {each["type"] for each in field.get("anyOf", [field])}
        said = promised.get("type", ["string", "null"] if None in promised.get("enum", ()) else "string")
        assert may == set([said] if isinstance(said, str) else said), name


@pytest.mark.parametrize(("name", "words"), [("reason", Reason), ("start", Start), ("outcome", Outcome)])
def test_its_closed_lists_are_the_gateways(name: str, words: Any) -> None:
    assert [word for word in SCHEMA["properties"][name]["enum"] if word is not None] == [*map(str, words)]


def request(path: bytes, body: bytes = INFER) -> bytes:
    return b"POST %b?key=planted HTTP/1.1\r\nhost: x\r\n%bcontent-length: %d\r\n\r\n%b" % (
        path,
        SECRET,
        len(body),
        body,
    )


async def test_every_line_of_a_gateway_keeps_it_and_tells_no_secret(tmp_path: Path, validator: Any) -> None:
    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if b"/broken/" in received.line:
            writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 7\r\n\r\nplanted")
        elif b"/lost/" in received.line:
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nplanted")
            writer.close()
        else:
            await ok(received, writer)

    log = tmp_path / "access.log"
    paths = (
        b"/v2/models/m/infer", b"/v2/models/broken/infer", b"/v2/models/nobodys/infer", b"/nowhere",
        b"/v2/models/m/infer", b"/v1/chat/completions", b"/invoke/all/x", b"/v2/models/lost/infer",
    )  # fmt: skip
    async with upstream(answer) as replica:
        file = f"""
access_log: {{path: '{log}'}}
backends:
  fleet: {{type: triton, replicas: ['{replica.url}'], max_in_flight: 1, price: {{usd_per_replica_hour: 1}}}}
routes:
  all: {{match: {{model: [m, broken, lost]}}, tiers: [{{backend: fleet}}]}}
"""
        async with running(file) as gateway:
            for path in paths:
                peer = await Peer.connect(port_of(gateway))
                peer.send(request(path, b'{"model": "m", "messages": []}' if b"chat" in path else INFER))
                peer.send(b"")
                await peer.head()
                peer.close()
            peer = await Peer.connect(port_of(gateway))
            peer.send(b"no http at all\r\n\r\n")
            await peer.rest()
    text = log.read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert len(lines) == len(paths) + 1
    for line in lines:
        validator.validate(line)
    assert {line["outcome"] for line in lines} >= {"ok", "rejected", "backend_error"}
    assert "planted" not in text
    trace = load(log)
    assert len(trace.arrivals) == sum(line["route"] is not None for line in lines)
