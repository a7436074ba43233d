"""What the workers of one configuration will share: the slots of every replica, and the spill budgets.

Knows the backend contract and the settings; nothing of processes.
"""

from collections.abc import Iterable
from typing import NamedTuple

from backends.base import Backend
from gateway.budgets import names_of
from gateway.config.schema import Prewarm, Settings
from gateway.errors import ConfigError
from gateway.options import Auto
from gateway.tenants.tenants import account_of
from gateway.workers.shared_spending import Limits


class Shared(NamedTuple):
    """What workers share.

    slots:    of each replica, keyed by (backend name, replica index)
    budgets:  keyed as `route NAME` and `backend NAME`
    """

    slots: dict[tuple[str, int], int]
    budgets: dict[str, Limits]


def shared_by(settings: Settings, backends: Iterable[Backend]) -> Shared:
    """Work it out. ConfigError for a backend whose slots are not known when the workers start."""
    slots = {}
    for backend in backends:
        most = backend.options.max_in_flight
        if backend.moves or isinstance(most, Auto):
            why = "finds or weighs its replicas while it runs" if backend.moves else "has max_in_flight: auto"
            raise ConfigError(f"backend {backend.name} {why}, which workers cannot share: use --workers 1")
        slots.update({(backend.name, index): most for index in range(len(backend.replicas))})
    budgets = {
        name: Limits(limits.usd_per_hour, limits.usd_per_day, share)
        for name, limits, share in names_of(settings)
    }
    for name, tenant in settings.tenants.items():
        budgets[account_of(name)] = Limits(tenant.usd_per_hour, tenant.usd_per_day, None)
    return Shared(slots, budgets)


def part_of(settings: Settings, worker: int, workers: int) -> Settings:
    """The settings of one worker: what is allowed per second or hour, and not shared, is divided among all.

    That is the floor of the retry budget and what may be opened ahead; a worker for which no instance is left
    opens none.
    """
    retries = settings.retry_budget
    floor = retries.model_copy(update={"floor_per_second": retries.floor_per_second / workers})
    routes = {
        name: route.model_copy(update={"prewarm": _part(route.prewarm, worker, workers)})
        for name, route in settings.routes.items()
    }
    return settings.model_copy(update={"retry_budget": floor, "routes": routes})


def _part(prewarm: Prewarm | None, worker: int, workers: int) -> Prewarm | None:
    if prewarm is None:
        return None
    instances, rest = divmod(prewarm.max_instances, workers)
    instances += worker < rest
    if not instances:
        return None
    part = {"max_instances": instances, "usd_per_hour": prewarm.usd_per_hour / workers}
    return prewarm.model_copy(update=part)
