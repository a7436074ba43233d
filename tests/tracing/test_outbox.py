"""The outbox with collectors of every temper: whatever they do, `offer` returns and every call is counted once."""

import threading
from collections.abc import Sequence

from gateway.record import Record
from gateway.tracing.outbox import BATCH, Outbox
from gateway.tracing.spans import Span
from gateway.tracing.trace import Trace
from gateway.tracing.tracer import Finished

PATIENCE_S = 10.0


class Scripted:
    """An exporter whose collector answers when `free` is set."""

    def __init__(self, answer: bool | Exception = True) -> None:
        self.answer = answer
        self.sizes: list[int] = []
        self.busy = threading.Event()
        self.free = threading.Event()
        self.free.set()
        self.stopped = 0

    def export(self, spans: Sequence[Span]) -> bool:
        self.sizes.append(len(spans))
        self.busy.set()
        assert self.free.wait(PATIENCE_S)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    def stop(self) -> None:
        self.stopped += 1


def finished() -> Finished:
    trace = Trace("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", 0, 1, b"GET", b"/")
    return Finished(Record("req", trace.traceparent, 0.0), trace, (), 0.0)


def counts(outbox: Outbox) -> tuple[int, int, int]:
    return outbox.exported, outbox.dropped, outbox.failed


def test_what_is_offered_is_exported() -> None:
    exporter = Scripted()
    outbox = Outbox(exporter)
    for _ in range(3 * BATCH):
        outbox.offer(finished())
    outbox.close(PATIENCE_S)
    assert counts(outbox) == (3 * BATCH, 0, 0)
    assert sum(exporter.sizes) == 3 * BATCH  # one span each
    assert max(exporter.sizes) <= BATCH
    assert exporter.stopped == 1


def test_while_the_collector_hangs_the_queue_is_bounded_and_nobody_waits() -> None:
    exporter = Scripted()
    exporter.free.clear()
    outbox = Outbox(exporter, most=10, every_s=0.001)
    outbox.offer(finished())
    assert exporter.busy.wait(PATIENCE_S)
    for _ in range(25):
        outbox.offer(finished())
    assert outbox.dropped == 15
    exporter.free.set()
    outbox.close(PATIENCE_S)
    assert counts(outbox) == (11, 15, 0)


def test_closing_does_not_wait_for_a_collector_that_hangs() -> None:
    exporter = Scripted(answer=False)
    exporter.free.clear()
    outbox = Outbox(exporter, every_s=0.001)
    outbox.offer(finished())
    assert exporter.busy.wait(PATIENCE_S)
    for _ in range(5):
        outbox.offer(finished())
    outbox.close(0.01)
    assert outbox.failed == 5
    outbox.offer(finished())
    assert outbox.dropped == 1  # nothing is taken any more
    exporter.free.set()
    outbox._thread.join(PATIENCE_S)
    assert counts(outbox) == (0, 1, 6)


def test_refusals_and_errors_are_counted_and_go_no_further() -> None:
    for answer in (False, OSError("the collector is gone")):
        outbox = Outbox(Scripted(answer))
        outbox.offer(finished())
        outbox.close(PATIENCE_S)
        assert counts(outbox) == (0, 0, 1)


def test_spans_that_cannot_be_made_cost_only_themselves() -> None:
    def broken(_: Finished) -> list[Span]:
        raise ValueError("a story without an end")

    outbox = Outbox(Scripted(), make=broken)
    outbox.offer(finished())
    outbox.close(PATIENCE_S)
    assert counts(outbox) == (0, 0, 1)


def test_an_outbox_that_was_never_used_has_no_thread_to_wait_for() -> None:
    outbox = Outbox(Scripted())
    outbox.close(PATIENCE_S)
    assert counts(outbox) == (0, 0, 0)
    assert "spans" not in {thread.name for thread in threading.enumerate()}
