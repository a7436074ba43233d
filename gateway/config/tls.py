"""The sections `tls` and `admin_tls`: their shape, and what is wrong or doubtful about the files they name.

The same is asked of the files in the `tls` section of a backend, known here only by the names of its fields.
Knows no socket.
"""

import ssl
from collections.abc import Iterator, Mapping
from pathlib import Path as FilePath
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, BeforeValidator, model_validator

from gateway.certificates import BadFile, expiries, key_file, load, load_pair, read_file
from gateway.config.problems import Path
from gateway.config.tree import Tree
from gateway.options import KeyFile, Options

SOON_S = 30 * 86400.0
"""A certificate that expires within so many seconds is worth a warning."""
_OTHERS_READ = 0o004


class TlsOptions(Options):
    """TLS on a port. The files are read again when they change; what is wrong then leaves the last in use."""

    certificate: FilePath
    """File with the certificate and those between it and its root, in PEM form, its own first."""
    key: KeyFile
    """File with its private key, as {file: PATH}: PEM, not encrypted, readable only by the gateway."""
    client_ca: FilePath | None = None
    """File with the certificates that must stand behind those of clients."""
    client_certificates: Literal["none", "optional", "required"] = "none"
    """Whether clients are asked for a certificate: not at all; those that have one show it, and it must be
    good; or nobody is let in without."""
    min_version: Annotated[
        Literal["1.2", "1.3"],
        BeforeValidator(lambda value: str(value) if isinstance(value, float) else value),
    ] = "1.2"
    """Oldest version of TLS that is spoken."""

    @model_validator(mode="after")
    def _both_or_none(self) -> "TlsOptions":
        if self.client_certificates != "none" and self.client_ca is None:
            raise ValueError("client_ca is missing: without it no client's certificate can be checked")
        if self.client_certificates == "none" and self.client_ca is not None:
            raise ValueError(
                "client_ca is not used as long as client_certificates is none; write required or optional"
            )
        return self


class _Document(Protocol):
    @property
    def tls(self) -> TlsOptions | None: ...
    @property
    def admin_tls(self) -> TlsOptions | None: ...


class _Settings(_Document, Protocol):
    @property
    def backends(self) -> Mapping[str, BaseModel]: ...


def check_server_files(document: _Document, tree: Tree, wall: float | None) -> None:
    """What a port could not be opened with. `wall`: Unix time, None where dates do not matter."""
    for name, options in (("tls", document.tls), ("admin_tls", document.admin_tls)):
        if options is None:
            continue
        try:
            _check_dates(options.certificate, load(options).expires, wall)
        except BadFile as error:
            path: Path = (name, error.field)
            tree.problem(tree.at_value(path), path, str(error))


def _check_dates(file: FilePath, expires: float, wall: float | None) -> None:
    if wall is not None and expires <= wall:
        raise BadFile("certificate", f"{file} has expired; every client would refuse it")


def check_client_files(options: BaseModel, tree: Tree, base: Path, wall: float | None) -> None:
    """What connections to a backend could not be made with: the files of its section `tls`, if it has one."""
    tls: Any = getattr(options, "tls", None)
    if tls is None:
        return
    try:
        if tls.ca_file is not None:
            expiries(read_file("ca_file", tls.ca_file), "ca_file", tls.ca_file)
        if tls.certificate is not None:
            ends = expiries(read_file("certificate", tls.certificate), "certificate", tls.certificate)
            load_pair(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls.certificate, key_file(tls.key))
            _check_dates(tls.certificate, min(ends), wall)
    except BadFile as error:
        path = (*base, "tls", error.field)
        tree.problem(tree.at_value(path), path, str(error))


def doubts(settings: _Settings, wall: float | None) -> Iterator[tuple[Path, str]]:
    """What is doubtful about files that can be used, each with where it is written."""
    for name, options in (("tls", settings.tls), ("admin_tls", settings.admin_tls)):
        if options is not None:
            yield from _file_doubts((name,), options, wall, options.client_ca, "client_ca")
    for name, each in settings.backends.items():
        client: Any = getattr(each, "tls", None)
        if client is None:
            continue
        base: Path = ("backends", name, "tls")
        if client.insecure_skip_verify:
            yield (
                (*base, "insecure_skip_verify"),
                "whoever stands between the gateway and this backend can read and change every call; "
                "give its authority's certificate as ca_file instead",
            )
        yield from _file_doubts(base, client, wall, client.ca_file, "ca_file")


def _file_doubts(
    base: Path, options: Any, wall: float | None, authority: FilePath | None, field: str
) -> Iterator[tuple[Path, str]]:
    if options.key is not None:
        file = key_file(options.key)
        if file.exists() and file.stat().st_mode & _OTHERS_READ:
            yield (*base, "key"), f"every user of this machine can read {file}; take that away (chmod 600)"
    for name, path in (("certificate", options.certificate), (field, authority)):
        if path is None or wall is None or not path.exists():
            continue
        left = min(expiries(read_file(name, path), name, path)) - wall
        if left <= 0:
            yield (
                (*base, name),
                f"a certificate in {path} has expired; a port goes on with its last good one",
            )
        elif left < SOON_S:
            yield (*base, name), f"{path} expires in {left / 86400:.0f} days; renew it"
