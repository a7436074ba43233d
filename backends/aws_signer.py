"""AWS Signature Version 4, by botocore, and the credentials to sign with.

botocore is imported when a signer is opened, and not before: it costs 0.3 s and 30 MB, which only a
gateway that has a backend of AWS should pay. It must never know what the requests are for.
"""

import asyncio
from typing import Any

from backends.credentials import Credentials
from gateway.errors import BackendDenied, ConfigError
from gateway.options import Options, SecretRef
from gateway.vocab import Headers


class AwsKeys(Options):
    """Keys by reference. Left out, the machine's own credential chain is used."""

    access_key: SecretRef
    """Access key id."""
    secret_key: SecretRef
    """Secret access key."""
    session_token: SecretRef | None = None
    """Session token of temporary credentials."""


def secrets_of(keys: AwsKeys | None) -> dict[str, SecretRef]:
    """The references by the names under which a Signer looks for them."""
    if keys is None:
        return {}
    secrets = {"access_key": keys.access_key, "secret_key": keys.secret_key}
    return secrets if keys.session_token is None else {**secrets, "session_token": keys.session_token}


class Signer:
    """Signs requests to one AWS service in one region.

    keys:         as the file gives them; None for the machine's own credential chain (environment, profile,
                  container, instance role)
    credentials:  where the `secrets_of` them are kept
    """

    def __init__(
        self, name: str, keys: AwsKeys | None, credentials: Credentials, *, service: str, region: str
    ) -> None:
        self._name = name
        self._service = service
        self._region = region
        self._given = None if keys is None else credentials
        self._session_token = keys is not None and keys.session_token is not None
        self._chain: Any = None

    async def open(self) -> None:
        """Import botocore and find the credentials. Raises ConfigError if there are none."""
        await asyncio.to_thread(_load)
        if self._given is None and await self._find() is None:
            raise ConfigError(
                f"{self._name}: no AWS credentials on this machine; set them up or give credentials"
            )

    async def sign(self, method: str, url: str, headers: Headers, body: bytes) -> Headers:
        """`headers` with the signature. Every field given is signed, so none may be changed afterwards."""
        from botocore.auth import S3SigV4Auth, SigV4Auth  # noqa: PLC0415 - see the top of this file
        from botocore.awsrequest import AWSRequest  # noqa: PLC0415

        keys = await self._keys()
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in headers}
        request = AWSRequest(method=method, url=url, data=body, headers=fields)
        scheme = S3SigV4Auth if self._service == "s3" else SigV4Auth
        scheme(keys, self._service, self._region).add_auth(request)
        return [(k.lower().encode("latin-1"), v.encode("latin-1")) for k, v in request.headers.items()]

    def forget(self) -> None:
        """Find the credentials again with the next request: AWS says that these have expired."""
        self._chain = None
        if self._given is not None:
            self._given.forget()

    async def _keys(self) -> Any:
        from botocore.credentials import Credentials as Keys  # noqa: PLC0415
        from botocore.exceptions import BotoCoreError  # noqa: PLC0415

        if self._given is not None:
            token = self._given["session_token"] if self._session_token else None
            return Keys(self._given["access_key"], self._given["secret_key"], token)
        chain = self._chain or await self._find()
        if chain is None:
            raise BackendDenied(f"{self._name}: no AWS credentials on this machine")
        try:
            # A role's credentials are refreshed over the network, by blocking calls.
            if getattr(chain, "refresh_needed", bool)():
                return await asyncio.to_thread(chain.get_frozen_credentials)
            return chain.get_frozen_credentials()
        except BotoCoreError as error:
            raise BackendDenied(
                f"{self._name}: the AWS credentials cannot be refreshed ({type(error).__name__})"
            ) from error

    async def _find(self) -> Any:
        from botocore.session import Session  # noqa: PLC0415

        self._chain = await asyncio.to_thread(Session().get_credentials)
        return self._chain


def _load() -> None:
    """What signing needs, now and not within the first call."""
    import botocore.auth  # noqa: PLC0415
    import botocore.awsrequest  # noqa: PLC0415
    import botocore.credentials  # noqa: F401, PLC0415
