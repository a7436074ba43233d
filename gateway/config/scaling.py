"""The `scaling` section of the file. Knows its shape only, never what becomes of it."""

from typing import Annotated

from pydantic import Field, model_validator

from gateway.config.address import ListenAddress
from gateway.options import Duration, Options, Share

Stretch = Annotated[Duration, Field(ge=60, le=86_400)]


class ReplicaBounds(Options):
    """How far the replicas of one owned backend may go."""

    min: int = Field(default=1, ge=0, le=100_000)
    """Fewest that are ever asked for. With 0 the backend may be empty while nobody uses it."""
    max: int | None = Field(default=None, ge=1, le=100_000)
    """Most that are ever asked for; absent: what pays."""

    @model_validator(mode="after")
    def _in_order(self) -> "ReplicaBounds":
        if self.max is not None and self.max < self.min:
            raise ValueError(f"max ({self.max}) is below min ({self.min})")
        return self


class Scaling(Options):
    """How many replicas of its owned backends the gateway asks an autoscaler for: as many as pay."""

    external_scaler: ListenAddress | None = None
    """Where KEDA's external scaler is served (gRPC); absent: nowhere. It takes the extra `overspill[grpc]`.
    GET /scaler/metrics.json on the admin port says the same and needs nothing."""
    anonymous: bool = False
    """True: that port, which asks nobody who they are, may be reached from other machines."""
    grow_over: Stretch = 600.0
    """One more replica is asked for when the spill that it would have carried has cost more than itself for
    so long."""
    shrink_over: Stretch = 1800.0
    """One less is asked for, at most once in so long, when it has not been worth its price for so long."""
    shrink_below: Share = 0.8
    """The share of its price that a replica must have been worth to stay: what lies between this and 1
    changes nothing."""
    replicas: dict[str, ReplicaBounds] = {}
    """By the name of an owned backend."""

    @model_validator(mode="after")
    def _shrinks_slower(self) -> "Scaling":
        if self.shrink_over < self.grow_over:
            raise ValueError("shrink_over is shorter than grow_over; a fleet that shrinks sooner flaps")
        return self

    def bounds(self, backend: str) -> ReplicaBounds:
        """What holds for a backend."""
        return self.replicas.get(backend) or ReplicaBounds()
