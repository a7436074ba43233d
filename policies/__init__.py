"""The policies that ship. Importing this package registers them; one line per policy."""

from policies import canary as canary
from policies import cheapest_in_budget as cheapest_in_budget
from policies import fleet_only as fleet_only
from policies import latency_threshold as latency_threshold
from policies import pinned as pinned
from policies import queue_threshold as queue_threshold
from policies import serverless_only as serverless_only
from policies import spill_when_full as spill_when_full
from policies import weighted as weighted
from policies.base import policies

__all__ = ["policies"]
