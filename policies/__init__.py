"""The policies that ship: one line for each module, with the name that its class has in the file.

Importing this package imports none of them; the registry does that for a name that is asked for.
"""

from policies.base import policies

policies.find_in("policies.canary", "canary")
policies.find_in("policies.cheapest_in_budget", "cheapest_in_budget")
policies.find_in("policies.fleet_only", "fleet_only")
policies.find_in("policies.latency_threshold", "latency_threshold")
policies.find_in("policies.pinned", "pinned")
policies.find_in("policies.queue_threshold", "queue_threshold")
policies.find_in("policies.serverless_only", "serverless_only")
policies.find_in("policies.spill_when_full", "spill_when_full")
policies.find_in("policies.weighted", "weighted")

__all__ = ["policies"]
