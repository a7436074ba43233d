"""The figure that tells a leak of tasks."""

import asyncio

from prometheus_client import CollectorRegistry, generate_latest

from gateway.event_loop import EventLoopCollector


def tasks(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("overspill_event_loop_tasks")


async def test_tasks_are_counted_while_they_live() -> None:
    registry = CollectorRegistry()
    registry.register(EventLoopCollector())
    before = tasks(registry)
    assert before is not None
    task = asyncio.get_running_loop().create_task(asyncio.sleep(60))
    assert tasks(registry) == before + 1
    task.cancel()
    await asyncio.wait([task])
    assert tasks(registry) == before


def test_outside_of_a_loop_there_is_no_figure() -> None:
    registry = CollectorRegistry()
    registry.register(EventLoopCollector())
    assert generate_latest(registry) == b""
