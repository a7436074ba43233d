"""How `async def` tests run: on uvloop, or on virtual time where marked so."""

import asyncio
import inspect
import os
from typing import Any

import pytest
import uvloop

from tests.support.virtual_time import VirtualLoop

# Programs are started beside gRPC's threads, and are others at once: they need nothing of its own at a fork.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    arguments: dict[str, Any] = {name: pyfuncitem.funcargs[name] for name in names}
    virtual = pyfuncitem.get_closest_marker("virtual_time") is not None
    with asyncio.Runner(loop_factory=VirtualLoop if virtual else uvloop.new_event_loop) as runner:
        runner.run(asyncio.wait_for(pyfuncitem.obj(**arguments), 120))
    return True
