"""All dashboards by the name of their file."""

from collections.abc import Mapping

from gateway.dashboards.backends import BACKENDS
from gateway.dashboards.gateway import GATEWAY
from gateway.dashboards.money import MONEY
from gateway.dashboards.overview import OVERVIEW
from gateway.dashboards.pages import Page
from gateway.dashboards.route import ROUTE

PAGES: Mapping[str, Page] = {
    "overview": OVERVIEW,
    "route": ROUTE,
    "money": MONEY,
    "backends": BACKENDS,
    "gateway": GATEWAY,
}
