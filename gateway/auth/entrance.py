"""Who may call, as the file says at the moment: makes gatekeepers, and keeps what they judge by up to date.

Knows the `auth` section and every way in. It must never know a port, a pipeline or a reload.
"""

import asyncio
from collections.abc import Callable

from gateway.auth.admin import AdminDoor
from gateway.auth.certificates import CertificateNames
from gateway.auth.fetch import fetch
from gateway.auth.gatekeeper import Gatekeeper
from gateway.auth.jwks import Fetch
from gateway.auth.jwt import Issuer, Tokens
from gateway.auth.keys import KeyRing
from gateway.clock import Clock
from gateway.config.auth import Anonymous, Auth, AuthSection
from gateway.identity import Identity

LOOK_EVERY_S = 1.0
"""How often files of keys are looked at, and the age of fetched ones."""


class Entrance:
    """The gatekeeper of the moment, None where nobody is asked, and the admin port's door.

    spawn:  of `Background`
    """

    def __init__(
        self,
        auth: AuthSection,
        *,
        clock: Clock,
        spawn: Callable[..., None],
        fetch: Fetch = fetch,
    ) -> None:
        self._clock = clock
        self._spawn = spawn
        self._fetch = fetch
        self._issuers: dict[str, Issuer] = {}
        self.door = AdminDoor(auth)
        self.gatekeeper = self._made(auth)
        self._note()

    async def prepare(self, auth: AuthSection) -> Gatekeeper | None:
        """What `adopt` takes. Raises ConfigError, and then nothing has changed."""
        return await asyncio.to_thread(self._made, auth)

    def adopt(self, auth: AuthSection, gatekeeper: Gatekeeper | None) -> None:
        """Go by these from now on. What the one before remembers goes with it."""
        self.gatekeeper = gatekeeper
        self.door.follow(auth)
        self._note()

    async def watch(self) -> None:
        """Keep up with files and issuers, until it is cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(LOOK_EVERY_S)

    async def look(self) -> None:
        """Once."""
        gatekeeper = self.gatekeeper
        if gatekeeper is None:
            return
        if (keys := gatekeeper.keys) is not None and keys.has_changed():
            keys.take(await asyncio.to_thread(keys.read))  # a long file takes its time
        for issuer in self._issuers.values():
            await issuer.keys.tend()

    def _note(self) -> None:
        tokens = None if self.gatekeeper is None else self.gatekeeper.tokens
        self._issuers = {} if tokens is None else dict(tokens.issuers)
        if self.gatekeeper is not None:
            self.gatekeeper.begin()

    def _made(self, auth: AuthSection) -> Gatekeeper | None:
        """Raises ConfigError. Issuers that stay as they were keep the keys that they have."""
        if not isinstance(auth, Auth) or not auth.asks_callers:
            return None
        clock = self._clock
        issuers = [
            known
            if (known := self._issuers.get(options.issuer)) is not None and known.options == options
            else Issuer.of(options, fetch=self._fetch, spawn=self._spawn, clock=clock)
            for options in auth.jwt
        ]
        return Gatekeeper(
            clock=clock,
            keys=None if auth.keys is None else KeyRing(auth.keys.file, clock),
            tokens=Tokens(issuers, clock) if issuers else None,
            certificates=CertificateNames(auth.certificates, clock) if auth.certificates else None,
            anonymous=None if auth.anonymous is None else _nobody(auth.anonymous),
        )


def _nobody(options: Anonymous) -> Identity:
    routes = None if options.routes is None else tuple(options.routes)
    return Identity("anonymous", "anonymous", options.tenant, routes, options.priority)
