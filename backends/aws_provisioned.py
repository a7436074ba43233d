"""What of a Lambda function stands ready and is paid for by the hour: its provisioned concurrency.

Opt-in: reading it needs the permission lambda:GetProvisionedConcurrencyConfig. It must never know a call.

Wire facts (API reference, "GetProvisionedConcurrencyConfig"): a version or alias has it, never $LATEST; 404
`ProvisionedConcurrencyConfigNotFoundException` where there is none.
"""

import msgspec

from backends.aws_errors import error_type
from backends.client import Answer
from gateway.options import Options, Usd

_NONE = "ProvisionedConcurrencyConfigNotFoundException"


class ProvisionedOptions(Options):
    """Provisioned concurrency of the function's version or alias."""

    usd_per_gb_second: Usd
    """Price of one GB of memory that stands ready for one second, used or not."""


class Provisioned(msgspec.Struct):
    """Environments: asked for, ready, and set up or being so. `status` is AWS's word for how that goes."""

    requested: int = msgspec.field(default=0, name="RequestedProvisionedConcurrentExecutions")
    available: int = msgspec.field(default=0, name="AvailableProvisionedConcurrentExecutions")
    allocated: int = msgspec.field(default=0, name="AllocatedProvisionedConcurrentExecutions")
    status: str = msgspec.field(default="", name="Status")


def read_provisioned(answer: Answer) -> Provisioned | None:
    """What an answer says; None where it says nothing, as where it may not be read."""
    if answer.status == 404 and error_type(answer) == _NONE:
        return Provisioned()
    if answer.status != 200:
        return None
    try:
        return msgspec.json.decode(answer.body, type=Provisioned)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
