"""What an invocation of Lambda tells of its start and its cost, and where that goes in the instance table.

Knows reports, the worker kit's fields and the table; it must never know how an invocation is made.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from backends.aws_lambda_options import LambdaOptions, usage_of
from backends.aws_report import Report
from backends.elastic import Elastic, start_by_boot
from backends.instances import Boot, Ticket
from backends.outlasting import outlasting
from backends.pings import Pinged
from gateway.errors import BackendError
from gateway.vocab import Charge, Start, Usage, Work

T = TypeVar("T")

LONGEST_S = 900.0
"""The longest time limit that a function can have."""


class LambdaBill:
    """One function's. `owner`: whose table it is."""

    def __init__(self, owner: Elastic, options: LambdaOptions) -> None:
        self._owner = owner
        self._options = options

    def judge(
        self, report: Report | None, boot: Boot | None, ticket: Ticket, *, died: bool = False
    ) -> tuple[Start, Usage]:
        """Warm or cold, and the bill: from the log's report, else from the worker kit's fields.

        died: by its error its environment is gone, as it is where nothing but a failed init is reported
        """
        ticket.died = died or (report is not None and report.duration_s is None and report.init_failed)
        table, now = self._owner.table, self._owner.kit.clock.now()
        instance = boot.id if boot else ""
        boot_s: float | None = None
        if report is not None:
            boot_s = report.boot_s
            start = Start.COLD if boot_s is not None else Start.WARM
        elif boot is not None:
            start = start_by_boot(boot, now - ticket.began, seen=table.knows(instance, now))
            boot_s = boot.age if start is Start.COLD else None
        else:
            start = Start.UNKNOWN
        if start is Start.WARM:
            boot_s = 0.0
        if report is None:
            return start, Usage(None, boot_s, None, instance)
        return start, usage_of(report, self._options, instance)

    def pinged(self, report: Report | None, boot: Boot | None, ticket: Ticket) -> Pinged:
        """The same of a ping that was answered."""
        start, usage = self.judge(report, boot, ticket)
        return Pinged(usage.instance, start, usage.boot_s, boot.age if boot else None, usage=usage)

    def unreported(self, boot: Boot | None, start: Start, ticket: Ticket) -> None:
        """The head has said who answers; the rest, and the report with it, did not arrive."""
        if boot is not None:
            table, now, cold = self._owner.table, self._owner.kit.clock.now(), start is Start.COLD
            table.meet(ticket, now, boot.id, cold=cold, counted=cold, age_s=boot.age)

    def end(self, ticket: Ticket, usage: Usage, boot: Boot | None = None) -> None:
        """An invocation is over.

        Who started for it is the report's to say, and its name is not looked up before: an invocation that
        runs for long may seem to have waited for a start that was another's. One that says that it was up
        before, and that nobody knows, has started for an invocation whose report was lost.
        """
        now = self._owner.kit.clock.now()
        age_s = boot.age if boot is not None else None
        self._owner.table.end(ticket, now, instance_id=usage.instance, boot_s=usage.boot_s, age_s=age_s)

    def charge(
        self, error: BackendError | None, usage: Usage | None, ticket: Ticket, boot: Boot | None = None
    ) -> None:
        """An invocation whose call had gone is over: what it used is nobody's usage, so it is a charge."""
        table = self._owner.table
        if error is not None and error.work is Work.NOT_STARTED:
            table.undo(ticket)
        elif usage is None:
            self._owner.lost(ticket)
        else:
            if not ticket.closed:
                self.end(ticket, usage, boot)
            table.owe(Charge(ticket.route, ticket.kind, usage.usd or 0.0))

    async def outlasting(
        self, work: Coroutine[Any, Any, T], ticket: Ticket, unclaimed: Callable[[T, Ticket], None]
    ) -> T:
        """`work`; if the call goes away meanwhile, it is waited for all the same, because it is billed."""

        def afterwards(ended: T | BackendError) -> None:
            if isinstance(ended, BackendError):
                self.charge(ended, ended.usage, ticket)
            else:
                unclaimed(ended, ticket)

        name = f"{self._owner.name}: invocation"
        try:
            return await outlasting(
                work, spawn=self._owner.kit.spawn, name=name, limit_s=LONGEST_S, afterwards=afterwards
            )
        except asyncio.CancelledError:
            ticket.adopted = True
            raise
