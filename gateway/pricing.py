"""The arithmetic of money, in US dollars and seconds; pure functions, no state.

Standard library only. It never knows whose price it is given: where a price comes from is the
configuration's business, and an unknown price never gets this far. Every figure stays a float; the
sums are of many small amounts, whose rounding errors stay far below a billionth of the whole.
"""

SECONDS_PER_HOUR = 3600.0
HOURS_PER_MONTH = 730.0
"""365 days of 24 hours over 12 months: the month that cloud price pages multiply with."""

BYTES_PER_GB = 2**30
"""A serverless "GB" of memory is 1,024 MB (AWS Lambda: the memory setting ends at 10,240 MB = 10 GB)."""


def per_second(usd_per_hour: float) -> float:
    """Dollars per second of something priced by the hour: $0.34/h is $0.0000944/s."""
    return usd_per_hour / SECONDS_PER_HOUR


def per_month(usd_per_hour: float) -> float:
    """Dollars for a 730-hour month: $0.34/h is $248.20."""
    return usd_per_hour * HOURS_PER_MONTH


def slot_second(usd_per_replica_hour: float, slots: int) -> float:
    """Dollars for holding one of a replica's `slots` for one second.

    A replica whose slots are all held all the time is thereby paid for exactly once.
    """
    if slots < 1:
        raise ValueError("a replica has at least one slot")
    return per_second(usd_per_replica_hour) / slots


def standing_usd(usd_per_replica_hour: float, replicas: int, seconds: float) -> float:
    """Dollars that a fleet costs by being there, used or not."""
    return per_second(usd_per_replica_hour) * replicas * seconds


def idle_usd(standing: float, attributed: float, in_progress: float = 0.0) -> float:
    """Dollars of a fleet's standing cost that no request answers for. Never negative.

    standing:     what the fleet has cost so far
    attributed:   what finished requests were charged for the slots they held
    in_progress:  what running requests will be charged for their slots up to now
    """
    return max(0.0, standing - attributed - in_progress)


def gb_seconds(memory_bytes: float, seconds: float) -> float:
    """Memory by time as serverless providers bill it: 1 GB for 200 ms is 0.2 GB-s.

    Source: AWS Lambda pricing, "duration" charge; the GB is the 1,024 MB of the memory setting.
    """
    return memory_bytes / BYTES_PER_GB * seconds


def per_thousand(usd: float, requests: int) -> float | None:
    """Dollars per 1,000 requests; None before the first one."""
    return 1000.0 * usd / requests if requests else None
