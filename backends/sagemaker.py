"""The three ways to run a model on Amazon SageMaker, by what they cost and whether they can be gone.

    sagemaker_realtime     instances stand by and are paid by the hour, used or not: an owned backend
    sagemaker_elastic      the same, with inference components or instances that scale to zero: rented
    sagemaker_serverless   seconds of processing and bytes moved are paid; idling is not: rented

Knows prices and limits; how an endpoint is called is `sagemaker_runtime.py`'s. `sagemaker_async.py` has the
fourth way, whose answers are objects in a bucket.

SageMaker Serverless (developer guide, "Deploy models with Serverless Inference"): 1 to 6 GB of memory, 4 MB
in and out, 60 s, no GPU. That its start-up is billed like its work is not confirmed by a bill.
"""

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field

from backends.base import BackendOptions, Kit, backends
from backends.billing import Standing, StandingOptions, ToZeroOptions, billed, rent_by_hour
from backends.elastic import ColdStart
from backends.instances import Span
from backends.sagemaker_runtime import SageMaker, SageMakerOptions, Told
from gateway.options import Options, Usd
from gateway.vocab import Rent, Usage

SERVERLESS_LIMIT = 4 * 2**20
"""Bytes of a serverless endpoint's request, and of its answer."""
_GB = 10**9
_STEP_S = 0.001


def _example(kind: str, url: str) -> dict[str, Any]:
    secret = {"env": "OVERSPILL_EXAMPLE_SECRET"}
    return {
        "type": kind,
        "endpoint": "embed",
        "region": "us-east-1",
        "endpoint_url": url,
        "credentials": {"access_key": secret, "secret_key": secret},
        "max_in_flight": 4,
    }


class RealtimeOptions(SageMakerOptions, StandingOptions):
    """A real-time endpoint of SageMaker, whose instances stand by."""

    type: Literal["sagemaker_realtime"]
    """Kind of backend."""


@backends.add("sagemaker_realtime")
class SageMakerRealtime(Standing, SageMaker):
    """One real-time endpoint."""

    Options: ClassVar[type[BackendOptions]] = RealtimeOptions
    options: RealtimeOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, RealtimeOptions)
        super().__init__(name, options, kit, rent=Rent(None))

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        price = {"usd_per_replica_hour": 1.41}
        return {**_example("sagemaker_realtime", url), "instances": 1, "price": price}


class ElasticEndpointOptions(SageMakerOptions, ToZeroOptions):
    """A real-time endpoint of SageMaker whose components or instances scale to zero."""

    type: Literal["sagemaker_elastic"]
    """Kind of backend."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "5m", "idle_after": "10m"})
    """What is known ahead about its instances; `idle_after` is how long scaling in waits."""
    late_binding: Literal["none"] = "none"
    """A component that is scaled to zero refuses calls while it scales out: none can wait there."""


@backends.add("sagemaker_elastic")
class SageMakerElastic(SageMaker):
    """One endpoint that can be scaled to zero."""

    Options: ClassVar[type[BackendOptions]] = ElasticEndpointOptions
    options: ElasticEndpointOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ElasticEndpointOptions)
        super().__init__(name, options, kit, rent=rent_by_hour(options.price, options.cold_start))

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        return {**_example("sagemaker_elastic", url), "price": {"usd_per_replica_hour": 1.41}}


class ServerlessPrice(Options):
    """What a serverless endpoint costs; the price page lists both by region and memory size."""

    usd_per_second: Usd
    """Price of one second of processing at the endpoint's memory size."""
    usd_per_gb: Usd = Field(default=0.0)
    """Price of a gigabyte that is moved, in or out."""


class ServerlessOptions(SageMakerOptions):
    """A serverless endpoint of SageMaker."""

    type: Literal["sagemaker_serverless"]
    """Kind of backend."""
    price: ServerlessPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "20s", "idle_after": "5m"})
    """What is known ahead about its instances; they are not billed while they idle."""


@backends.add("sagemaker_serverless")
class SageMakerServerless(SageMaker):
    """One serverless endpoint."""

    Options: ClassVar[type[BackendOptions]] = ServerlessOptions
    body_limit = SERVERLESS_LIMIT
    options: ServerlessOptions

    def __init__(self, name: str, options: BackendOptions, kit: Kit) -> None:
        assert isinstance(options, ServerlessOptions)
        rent = Rent(
            options.price.usd_per_second if options.price else None,
            idle_s=options.cold_start.idle_after,
            boot_s=options.cold_start.expect,
            bills_idle=False,
            round_up_s=_STEP_S,
        )
        super().__init__(name, options, kit, rent=rent)

    @classmethod
    def example(cls, url: str) -> Mapping[str, Any]:
        """Options of an endpoint whose API is served at `url`."""
        price = {"usd_per_second": 0.00008, "usd_per_gb": 0.016}
        cold = {"expect": "20s", "idle_after": "5m"}
        return {**_example("sagemaker_serverless", url), "price": price, "cold_start": cold}

    def price(self, billed_s: float) -> float | None:
        """US dollars of a call's seconds, in whole milliseconds."""
        return super().price(billed(billed_s, step=_STEP_S))

    def usage(self, span: Span, boot_s: float | None, instance: str, *, reported: bool) -> Usage:
        """The measured seconds in whole milliseconds, and their price."""
        seconds = billed(span.billed_s, step=_STEP_S)
        return Usage(seconds, boot_s, self.price(seconds), instance, reported)

    def used(self, span: Span, told: Told, moved: int) -> Usage:
        """The seconds, and the bytes both ways."""
        usage = super().used(span, told, moved)
        if usage.usd is None or self.options.price is None:
            return usage
        return usage._replace(usd=usage.usd + moved / _GB * self.options.price.usd_per_gb)
