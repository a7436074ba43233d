"""What the file says of a backend, as what is expected of it before anything was measured.

Knows the backend contract and the shape of an `Expectation`. It never learns: that is `estimates.py`.
"""

from backends.base import Backend
from gateway.estimates import Expectation, Prior
from gateway.probe.calibration import priors

UNSTATED = Expectation()
SERVICE_SHARE, TAIL_SHARE = 0.1, 0.3
"""Of the latency budget: a service nothing is known of is taken to fit well, its tail as well."""


def expectation(backend: Backend, *, within: float | None, objective: float | None) -> Expectation:
    """A measured `calibration` goes before what is declared, that before a guess from the budget."""
    service = UNSTATED.service if within is None else Prior(SERVICE_SHARE * within, TAIL_SHARE * within)
    cold, idle_s = UNSTATED.cold, 0.0
    rent = backend.rent
    if rent is not None:
        idle_s = rent.idle_s
        if rent.boot_s > 0.0:
            cold = Prior(rent.boot_s, 2.0 * rent.boot_s)
    measured = priors(backend.options)
    service = _prior(measured.service_mean, measured.service_tail) or service
    cold = _prior(measured.cold_mean, measured.cold_tail) or cold
    share = 0.99 if objective is None else min(max(objective, 0.01), 0.9999)
    return Expectation(share, service, cold, idle_s)


def _prior(mean: float | None, tail: float | None) -> Prior | None:
    if not mean or mean <= 0.0:
        return None
    return Prior(mean, max(mean, tail or 2.0 * mean))
