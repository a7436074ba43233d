"""The errors of AWS Lambda itself, as its API answers them.

Must never know a function or a request.
"""

import json
from collections.abc import Mapping

from aiohttp import web

_STATUSES = {
    "ProvisionedConcurrencyConfigNotFoundException": 404,
    "InvalidRequestContentException": 400,
    "InvalidParameterValueException": 400,
    "MissingAuthenticationTokenException": 403,
    "IncompleteSignatureException": 403,
    "AccessDeniedException": 403,
    "UnrecognizedClientException": 403,
    "InvalidSignatureException": 403,
    "ResourceNotFoundException": 404,
    "RequestTooLargeException": 413,
    "TooManyRequestsException": 429,
    "ServiceException": 500,
}


class Refusal(Exception):
    """An error of the service itself, by its type name."""

    def __init__(self, kind: str, text: str, **more: str) -> None:
        super().__init__(text)
        self.kind = kind
        self.more = more


def throttled(reason: str) -> Refusal:
    """Too many at once, or too often."""
    return Refusal("TooManyRequestsException", "Rate Exceeded.", Reason=reason)


def refused(refusal: Refusal) -> web.Response:
    """The answer."""
    message = "Message" if refusal.kind == "ResourceNotFoundException" else "message"
    document: Mapping[str, str] = {**refusal.more, "Type": "User", message: str(refusal)}
    headers = {"x-amzn-ErrorType": refusal.kind, "Content-Type": "application/json"}
    if refusal.kind == "TooManyRequestsException":
        headers["Retry-After"] = "1"
    return web.Response(status=_STATUSES[refusal.kind], headers=headers, body=json.dumps(document).encode())
