"""The bytes are those that generated stubs read and write."""

import pytest

from backends.protobuf_wire import Malformed
from gateway.scaling import messages
from gateway.scaling.messages import Asked, ScaledObject

REF = bytes.fromhex("0a0174 1202 6e73 1a10 0a07 6261636b656e64 1205 666c656574")


def test_a_scaled_object_is_read() -> None:
    assert messages.read_scaled_object(REF) == ScaledObject("t", "ns", {"backend": "fleet"})
    assert messages.read_scaled_object(b"") == messages.NOBODY


def test_a_metrics_request_is_read() -> None:
    request = b"\x0a" + bytes([len(REF)]) + REF + b"\x12\x04name"
    assert messages.read_metrics_request(request) == Asked(messages.read_scaled_object(REF), "name")


def test_unknown_fields_are_passed_over() -> None:
    more = REF + bytes.fromhex("50 07") + bytes.fromhex("5a 03 616263") + bytes.fromhex("08 05")
    assert messages.read_scaled_object(more) == messages.read_scaled_object(REF)


@pytest.mark.parametrize("broken", [REF[:-1], b"\x0a\x02\xff\xff", b"\x1a\x05\x0a\x09abc", b"\xff" * 12])
def test_what_is_no_message_is_refused(broken: bytes) -> None:
    with pytest.raises(Malformed):
        messages.read_scaled_object(broken)


def test_answers_are_written() -> None:
    assert messages.active(True) == bytes.fromhex("0801")
    assert messages.active(False) == b""
    # metricName, targetSize, targetSizeFloat
    assert messages.metric_spec("m", 1.0) == bytes.fromhex("0a0e 0a016d 1001 19 000000000000f03f")
    assert messages.metric_value("m", 3.0) == bytes.fromhex("0a0e 0a016d 1003 19 0000000000000840")
    assert messages.metric_value("m", 0.0) == bytes.fromhex("0a03 0a016d"), "zero is what is left out"
