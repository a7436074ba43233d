"""Fuzz targets: the two HTTP/1.1 parsers, towards clients and towards replicas."""

from gateway.listener_limits import ListenerLimits
from loadtests.fuzz.memory_answer import MemoryReplica
from loadtests.fuzz.memory_wire import MemoryListener
from loadtests.fuzz.pieces import ways
from loadtests.fuzz.target import Target

_KNOWN_STATUSES = {200, 400, 405, 408, 413, 414, 431, 501}
_UNTIL_KNOWN = 2
"""So many times more a head must come until it is known, and once as such."""
_SMALL = ListenerLimits(head=512, fields=12, target=128, body=1024, body_buffer=64, pipelined=3)


class ListenerWire(Target):
    """A client connection: as many answers as requests, at most one refusal, and that the last."""

    def __init__(self) -> None:
        self._wide = MemoryListener()
        self._narrow = MemoryListener(_SMALL)

    def close(self) -> None:
        """Both loops."""
        self._wide.close()
        self._narrow.close()

    def __call__(self, data: bytes) -> None:
        """Bytes of one connection."""
        whole = self._wide.hear([data])
        assert len(whole.refused) <= 1
        assert len(whole.statuses) == len(whole.understood) + len(whole.refused), whole
        assert set(whole.statuses) <= _KNOWN_STATUSES
        assert not whole.refused or (whole.statuses[-1] != 200 and whole.closed)
        for request in whole.understood:
            lengths = [value for name, value in request.headers if name == b"content-length"]
            codings = [value for name, value in request.headers if name == b"transfer-encoding"]
            assert len(lengths) + len(codings) <= 1
            assert not lengths or int(lengths[0]) == len(request.body)
            assert lengths or codings or not request.body
            assert len([name for name, _ in request.headers if name == b"host"]) <= 1
            for name, value in request.headers:
                assert name
                assert not set(b"\r\n\0: ") & set(name)
                assert not set(b"\r\n\0") & set(value)
        for _ in range(_UNTIL_KNOWN):
            assert self._wide.hear([data]) == whole, "a head that is known means something else"
        for pieces in ways(data):
            assert self._wide.hear(pieces) == whole, "it depends on how the bytes are split"
        for pieces in ([data], *ways(data)):
            narrow = self._narrow.hear(pieces)
            assert len(narrow.statuses) == len(narrow.understood) + len(narrow.refused)
            assert len(narrow.refused) <= 1


class UpstreamWire(Target):
    """A replica's answer. Its first byte says whether HEAD was asked."""

    def __init__(self) -> None:
        self._replica = MemoryReplica()

    def close(self) -> None:
        """Its loop."""
        self._replica.close()

    def __call__(self, data: bytes) -> None:
        """Bytes of one connection, after which it closes."""
        is_head, wire = data[:1] == b"H" and data[1:2] != b"T", data
        if is_head:
            wire = data[1:]
        whole = self._replica.take([wire], is_head=is_head)
        assert whole.error or 200 <= whole.status <= 599
        for name, value in whole.headers:
            assert name
            assert not set(b"\r\n\0: ") & set(name)
            assert not set(b"\r\n\0") & set(value)
        for _ in range(_UNTIL_KNOWN):
            assert self._replica.take([wire], is_head=is_head) == whole, (
                "a head that is known means something else"
            )
        for pieces in ways(wire):
            parts = self._replica.take(pieces, is_head=is_head)
            assert bool(parts.error) == bool(whole.error), (parts, whole)
            if not whole.error:
                assert parts == whole, "it depends on how the bytes are split"
            poured = self._replica.pour(pieces, is_head=is_head)
            assert bool(poured.error) == bool(whole.error), (poured, whole)
            if is_head:  # what comes behind the head of such an answer is nobody's, however much was here
                poured = poured._replace(body=whole.body)
            assert whole.error or poured == whole, "handed over it is not what is read"
