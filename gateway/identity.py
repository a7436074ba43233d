"""Who calls, and what they may do: what a credential was found to stand for.

Leaf-like: it knows the errors and a call, and must never know a secret, a header, or how a caller was
recognised. Its fields go into the access log as they are, so whoever makes one keeps them short.
"""

from typing import Literal, NamedTuple

from gateway.errors import Refused
from gateway.vocab import Call

LONGEST_NAME = 64
"""Characters of a name in the log."""

_RANK = {"best_effort": 0, "default": 1, "critical": 2}

Kind = Literal["key", "token", "certificate", "anonymous"]


class Identity(NamedTuple):
    """One caller.

    name:        the id of its key, the subject of its token, the name in its certificate; never a secret
    kind:        what it showed
    tenant:      whose calls these are; None where nobody says
    routes:      names of the routes that it may use; None: all
    priority:    the highest that its calls may have; None: any
    expires_at:  Unix time from which on it is nobody; None: never
    """

    name: str
    kind: Kind
    tenant: str | None = None
    routes: tuple[str, ...] | None = None
    priority: str | None = None
    expires_at: float | None = None

    def enter(self, call: Call) -> None:
        """Hold a call that knows its route to what its caller may do. Raises Refused."""
        if self.routes is not None and call.route not in self.routes:
            raise Refused("this caller may not use that model or route; ask for a credential that covers it")
        if self.priority is not None:
            lower_priority(call, self.priority)


def lower_priority(call: Call, most: str) -> None:
    """Hold the call to a priority that is not higher than `most`."""
    if _RANK[call.priority] > _RANK[most]:
        call.priority = most


def plain_name(text: str) -> str:
    """A name from outside, fit for a log: printable and short."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[: LONGEST_NAME + 1])
    return shown if len(shown) <= LONGEST_NAME else shown[: LONGEST_NAME - 1] + "…"
