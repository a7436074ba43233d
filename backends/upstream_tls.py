"""TLS towards the servers of a backend: whom to trust, and what to show them.

The files are read again when they change, for the connections that come then; where they cannot be used the
last ones stay. Knows files and OpenSSL; it must never know a provider, nor what is sent.
"""

import logging
import ssl
from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from gateway.errors import ConfigError
from gateway.options import KeyFile, Options

log = logging.getLogger("overspill.tls")

_Marks = tuple[tuple[int, ...], ...]


class UpstreamTls(Options):
    """TLS towards a backend's servers. Their certificates are verified unless this says otherwise."""

    ca_file: Path | None = None
    """File with the certificates that must stand behind the servers', in PEM form, instead of those that the
    system trusts."""
    certificate: Path | None = None
    """File with the gateway's own certificate, for servers that ask for one."""
    key: KeyFile | None = None
    """File with its private key, as {file: PATH}."""
    server_name: str | None = Field(
        default=None, pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]{0,252}[A-Za-z0-9_])?$"
    )
    """Name that the servers' certificates must have, instead of the one in their address."""
    insecure_skip_verify: bool = False
    """Take any certificate: whoever stands between can then read and change every call."""

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together; give both or none")
        if self.insecure_skip_verify and (self.ca_file is not None or self.server_name is not None):
            raise ValueError("insecure_skip_verify checks nothing, so ca_file and server_name are of no use")
        return self


class ClientTls:
    """The contexts of one backend's connections.

    name:     the backend, for messages
    options:  None: whom the system trusts, and nothing to show
    http2:    HTTP/2 is spoken, else HTTP/1.1
    """

    def __init__(self, name: str, options: UpstreamTls | None, *, http2: bool = False) -> None:
        self._name = name
        self._http2 = http2
        self._options = options or UpstreamTls()
        self._marks: _Marks | None = None
        self._context: ssl.SSLContext | None = None

    @property
    def server_name(self) -> str | None:
        """Instead of the name in the address."""
        return self._options.server_name

    def for_http2(self) -> "ClientTls":
        """The same for connections on which HTTP/2 is spoken."""
        return ClientTls(self._name, self._options, http2=True)

    def open(self) -> None:
        """Read the files. Raises ConfigError, naming the file."""
        try:
            self._marks = self._look()
            self._context = self._made()
        except OSError as error:  # ssl.SSLError is one
            raise ConfigError(f"{self._name}: TLS cannot be used: {_words(error)}") from None

    def context(self) -> ssl.SSLContext:
        """For the next connection. Raises ConfigError while there has been none that could be used."""
        if self._context is None:
            self.open()
            assert self._context is not None
        elif self._files:
            self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            marks = self._look()
            if marks == self._marks:
                return
            self._marks = marks
            self._context = self._made()
            log.info("%s: its certificates were read again", self._name)
        except OSError as error:
            log.error("%s: its certificates stay as they were: %s", self._name, _words(error))

    @property
    def _files(self) -> list[Path]:
        options = self._options
        named = (options.ca_file, options.certificate, None if options.key is None else options.key.file)
        return [path for path in named if path is not None]

    def _look(self) -> _Marks:
        found = [path.stat() for path in self._files]  # of what a link leads to
        return tuple((each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for each in found)

    def _made(self) -> ssl.SSLContext:
        options = self._options
        context = ssl.create_default_context(cafile=options.ca_file)
        context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["h2" if self._http2 else "http/1.1"])
        if options.certificate is not None and options.key is not None and options.key.file is not None:
            context.load_cert_chain(options.certificate, options.key.file, password="")  # nobody is asked
        if options.insecure_skip_verify:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


def tls_failed(error: OSError) -> str | None:
    """Why no encrypted connection came about, None where the error is of another kind."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is refused: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {(error.reason or 'no reason given').lower().replace('_', ' ')}"
    return None


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "a file is not what it should be").lower().replace("_", " ")
    return f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror)
