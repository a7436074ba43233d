"""Microsoft Entra tokens: for the machine's managed identity, or for an application with a client secret.

Knows the two token hosts; it must never know what a token is used for.

Wire facts (Microsoft documentation, "How to use managed identities … on an Azure VM to acquire an access
token" and "OAuth 2.0 client credentials flow"): the instance metadata service wants `Metadata: true`, and
writes `expires_in` as text; the sign-in host wants a form, and a scope that ends with `/.default`.
"""

from typing import Self
from urllib.parse import quote, urlencode

from pydantic import Field, model_validator

from backends.credentials import Credential
from backends.elastic import HttpUrl
from backends.tokens import Token, TokenHost, TokenSource, read_grant
from gateway.errors import BackendDenied
from gateway.options import Options, SecretRef

_API_VERSION = "2018-02-01"


class EntraIdentity(Options):
    """As whom Azure is called. Empty: as the machine's own managed identity."""

    tenant: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+$")
    """Directory (tenant) of the application."""
    client_id: str | None = Field(default=None, pattern=r"^[A-Za-z0-9.-]+$")
    """Id of the application, or of a user-assigned managed identity."""
    client_secret: SecretRef | None = None
    """Secret of the application."""
    login_url: HttpUrl = "https://login.microsoftonline.com"
    """Where an application signs in; another one in sovereign clouds."""
    metadata_url: HttpUrl = "http://169.254.169.254"
    """Address of the machine's metadata service."""

    @model_validator(mode="after")
    def _whole_application(self) -> Self:
        if self.client_secret is not None and (self.tenant is None or self.client_id is None):
            raise ValueError("client_secret needs tenant and client_id beside it")
        if self.client_secret is None and self.tenant is not None:
            raise ValueError("tenant needs client_secret beside it; a managed identity has none")
        return self

    def source(self, name: str, resource: str) -> TokenSource:
        """Where the access tokens for `resource` come from."""
        if self.client_secret is not None and self.tenant is not None and self.client_id is not None:
            secret = Credential(name, self.client_secret)
            url = f"{self.login_url.rstrip('/')}/{self.tenant}/oauth2/v2.0/token"
            return Application(name, url, self.client_id, secret, resource)
        return ManagedIdentity(name, self.metadata_url, self.client_id, resource)


class Application:
    """The tokens of an application that signs in with a secret."""

    def __init__(self, name: str, url: str, client_id: str, secret: Credential, resource: str) -> None:
        self._host = TokenHost(name, url)
        self._client_id = client_id
        self._secret = secret
        self._scope = f"{resource.rstrip('/')}/.default"

    def check(self) -> None:
        """Raise ConfigError if the secret is not there."""
        self._secret.check()

    async def close(self) -> None:
        """Close every connection."""
        await self._host.close()

    async def fetch(self) -> Token:
        """A token. Raises BackendError whose `work` is NOT_STARTED."""
        form = urlencode(
            {
                "grant_type": "client_credentials",
                "client_id": self._client_id,
                "client_secret": self._secret.value(),
                "scope": self._scope,
            }
        )
        headers = [(b"content-type", b"application/x-www-form-urlencoded")]
        try:
            answer = await self._host.ask("POST", self._host.url, headers, form.encode())
        except BackendDenied:
            self._secret.forget()  # it may have been rotated
            raise
        return read_grant(self._host, answer, "access_token")


class ManagedIdentity:
    """The tokens of the machine's managed identity."""

    def __init__(self, name: str, url: str, client_id: str | None, resource: str) -> None:
        self._host = TokenHost(name, url.rstrip("/"), metadata=True)
        query = f"api-version={_API_VERSION}&resource={quote(resource, safe='')}"
        self._query = query if client_id is None else f"{query}&client_id={client_id}"

    def check(self) -> None:
        """Nothing can be told before it is asked."""

    async def close(self) -> None:
        """Close every connection."""
        await self._host.close()

    async def fetch(self) -> Token:
        """A token. Raises BackendError whose `work` is NOT_STARTED."""
        url = f"{self._host.url}/metadata/identity/oauth2/token?{self._query}"
        answer = await self._host.ask("GET", url, [(b"metadata", b"true")])
        return read_grant(self._host, answer, "access_token")
