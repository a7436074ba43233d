"""What the file says of a Lambda function, and what a function costs however it is called.

Pure. It must never know a request.
"""

from typing import Literal, Self

from pydantic import Field, model_validator

from backends.aws_provisioned import ProvisionedOptions
from backends.aws_report import Report
from backends.aws_signer import AwsKeys
from backends.elastic import ColdStart, ElasticOptions, HttpUrl, check_envelope
from gateway.options import Options, Size, Usd
from gateway.vocab import Rent, Usage

_GIB = 2**30


class LambdaPrice(Options):
    """What a function costs; both figures are on the provider's price page, per region and architecture."""

    usd_per_gb_second: Usd
    """Price of one GB of memory for one second of billed duration."""
    usd_per_request: Usd
    """Price of one invocation."""


class LambdaOptions(ElasticOptions):
    """A function of AWS Lambda."""

    type: Literal["aws_lambda"]
    """Kind of backend."""
    function: str = Field(pattern=r"^[A-Za-z0-9_:-]+$")
    """Name or ARN of the function, an alias or version behind a colon included."""
    qualifier: str | None = Field(default=None, pattern=r"^[A-Za-z0-9$_-]+$")
    """Alias or version, where the name does not have it."""
    region: str = Field(pattern=r"^[a-z0-9-]+$")
    """Region of the function."""
    endpoint_url: HttpUrl | None = None
    """Address of the API, for emulators and private endpoints."""
    credentials: AwsKeys | None = None
    """Keys to sign with."""
    envelope: Literal["event", "raw"] = "event"
    """`event` sends the request as an API Gateway event; `raw` sends the JSON body as the event and
    answers with what the function returns."""
    response: Literal["buffered", "streamed"] = "buffered"
    """`streamed` passes the answer on as the function writes it, 200 MB at most; 6 MB otherwise."""
    memory: Size | None = None
    """Memory of the function, for the price where the log tail does not say it."""
    price: LambdaPrice | None = None
    """What it costs. Without it every cost figure of its routes is absent."""
    provisioned: ProvisionedOptions | None = None
    """Read how many environments stand ready, and say what that costs by the hour."""
    cold_start: ColdStart = ColdStart.model_validate({"expect": "3s", "idle_after": "5m"})
    """What is known ahead about its environments; Lambda does not bill them while they idle."""

    @model_validator(mode="after")
    def _kit_answers_pings(self) -> Self:
        check_envelope(self, self.envelope)
        if self.envelope == "raw" and self.response == "streamed":
            raise ValueError(
                "response: streamed needs envelope: event; a raw answer has no place for its fields"
            )
        if self.provisioned is not None and self.qualifier is None:
            raise ValueError("provisioned needs a qualifier: $LATEST cannot have provisioned concurrency")
        if self.provisioned is not None and self.memory is None:
            raise ValueError("provisioned needs memory, which its price is per GB of")
        return self


def lambda_rent(price: LambdaPrice | None, memory: int | None, cold: ColdStart) -> Rent:
    """Lambda bills the start-up (since August 2025) and the work in whole milliseconds, and no idling.

    The price of a second follows from the memory (bytes), and is not known where the file does not say that.
    """
    usd = price.usd_per_gb_second * memory / _GIB if price is not None and memory is not None else None
    return Rent(
        usd,
        usd_per_call=price.usd_per_request if price is not None else 0.0,
        idle_s=cold.idle_after,
        boot_s=cold.expect,
        bills_idle=False,
        round_up_s=0.001,
    )


def usage_of(report: Report, options: LambdaOptions, instance: str = "") -> Usage:
    """What an invocation used, by Lambda's own word. `instance`: who ran it, if that is known."""
    usd = invocation_usd(report, options.price, options.memory)
    told, boot_s = report.billed_s is not None, report.boot_s or 0.0
    return Usage(report.billed_s, boot_s, usd, instance, told, memory_gb=report.memory_gb)


def invocation_usd(report: Report | None, price: LambdaPrice | None, memory: int | None) -> float | None:
    """Billed duration times memory (`memory` bytes where the report does not say it), and the request itself.

    None when one of them is not known.
    """
    if price is None or report is None:
        return None
    if report.memory_gb is None and memory is not None:
        report = report._replace(memory_gb=memory / _GIB)
    used = report.gb_seconds
    return None if used is None else used * price.usd_per_gb_second + price.usd_per_request
