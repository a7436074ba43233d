"""Open files: as many as the system permits, and never all of them for clients.

Every client connection takes one, and so does every connection to a backend. Where clients have taken the
last one, calls that are inside fail for want of a connection, and replicas are blamed for it. So a part is
kept back, whatever `limits.connections` says. Knows the process's limit; it must never know who connects.
"""

import logging
import resource

log = logging.getLogger("overspill")

_KEPT_BACK = 64
_SHARE_KEPT_BACK = 4


def most_clients(wanted: int, *, files: int) -> int:
    """How many client connections there may be, of `wanted`, where the process may open `files`.

    A quarter of them is kept back, 64 at least, but never more than half. RLIM_INFINITY is no limit.
    """
    if files == resource.RLIM_INFINITY:
        return wanted
    kept_back = max(files // _SHARE_KEPT_BACK, min(_KEPT_BACK, files // 2))
    return max(1, min(wanted, files - kept_back))


def limit() -> int:
    """How many files this process may open."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def raise_limit(clients: int) -> None:
    """Have the process open as many files as it ever may; say so where `clients` connections are too many.

    The soft limit is low by default for the sake of programs that use select(), which nothing here does.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # where the hard limit is none, or a container has its own
            log.warning("may open no more than %d files: %s", soft, error)
    most = most_clients(clients, files=limit())
    if most < clients:
        log.warning(
            "limits.connections is %d, but this process may open %d files: at most %d clients at once; raise "
            "the limit of open files (ulimit -n, LimitNOFILE=)",
            clients, limit(), most,
        )  # fmt: skip
