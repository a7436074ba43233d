"""Checks an AWS Signature Version 4, with hmac and nothing else.

Pure. Must never know Lambda or HTTP servers. Written from AWS's description of the signing process, not
with botocore, so that it is a check on whoever signs with botocore.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import parse_qsl, quote

_AUTHORIZATION = re.compile(
    r"AWS4-HMAC-SHA256 Credential=(?P<key>[^/,]+)/(?P<date>\d{8})/(?P<region>[^/,]+)/(?P<service>[^/,]+)"
    r"/aws4_request, ?SignedHeaders=(?P<signed>[a-z0-9;-]+), ?Signature=(?P<signature>[0-9a-f]{64})"
)
_SKEW_S = 300.0


class BadSignature(Exception):
    """Why the request is refused: AWS's error type and words."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


class Keys(NamedTuple):
    """One key pair, and the session token if it is a temporary one."""

    access_key: str
    secret_key: str
    session_token: str | None = None


class SignedRequest(NamedTuple):
    """The parts of a request that are signed. `path` as on the wire, `headers` in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


def verify(request: SignedRequest, keys: Keys, *, region: str, service: str, wall: float) -> None:
    """Raises BadSignature unless the request was signed with `keys` at about `wall` (Unix seconds)."""
    given = request.headers.get("authorization")
    if given is None:
        raise BadSignature("MissingAuthenticationTokenException", "Missing Authentication Token")
    if (match := _AUTHORIZATION.fullmatch(given)) is None:
        raise BadSignature("IncompleteSignatureException", "Authorization header is not as expected")
    if match["key"] != keys.access_key or request.headers.get("x-amz-security-token") != keys.session_token:
        text = "The security token included in the request is invalid."
        raise BadSignature("UnrecognizedClientException", text)
    if (match["region"], match["service"]) != (region, service):
        text = f"Credential should be scoped to region {region} and service {service}."
        raise BadSignature("InvalidSignatureException", text)
    _check_time(request.headers.get("x-amz-date", ""), match["date"], wall)
    signed = match["signed"].split(";")
    must = {"host"} | {name for name in request.headers if name.startswith("x-amz-")}
    if signed != sorted(signed) or not must <= set(signed):
        text = f"these headers must be signed, in order: {', '.join(sorted(must))}"
        raise BadSignature("InvalidSignatureException", text)
    scope = "/".join((match["date"], region, service, "aws4_request"))
    if not hmac.compare_digest(_signature(request, signed, scope, keys.secret_key), match["signature"]):
        raise BadSignature(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided. Check your AWS"
            " Secret Access Key and signing method. Consult the service documentation for details.",
        )


def _check_time(stamp: str, date: str, wall: float) -> None:
    try:
        made = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise BadSignature("IncompleteSignatureException", "X-Amz-Date is missing or not a date") from None
    if stamp[:8] != date:
        raise BadSignature("InvalidSignatureException", "Date in Credential scope does not match X-Amz-Date")
    if abs(made.timestamp() - wall) > _SKEW_S:
        raise BadSignature("InvalidSignatureException", f"Signature expired: {stamp} is too far from now")


def _signature(request: SignedRequest, signed: list[str], scope: str, secret: str) -> str:
    body_hash = hashlib.sha256(request.body).hexdigest()
    if request.headers.get("x-amz-content-sha256", body_hash) != body_hash:
        raise BadSignature("InvalidSignatureException", "X-Amz-Content-Sha256 does not match the body")
    canonical = "\n".join(
        (
            request.method,
            # Every service but S3 signs the path encoded once more than it is on the wire.
            quote(request.path, safe="/~"),
            _canonical_query(request.query),
            *(f"{name}:{' '.join(request.headers.get(name, '').split())}" for name in signed),
            "",
            ";".join(signed),
            body_hash,
        )
    )
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    to_sign = "\n".join(("AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest))
    key = f"AWS4{secret}".encode()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def _canonical_query(query: str) -> str:
    pairs = parse_qsl(query, keep_blank_values=True)
    encoded = sorted((quote(name, safe="-_.~"), quote(value, safe="-_.~")) for name, value in pairs)
    return "&".join(f"{name}={value}" for name, value in encoded)
