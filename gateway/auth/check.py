"""What is wrong with who may call: ports that anybody reaches, files of keys, secrets that can be guessed.

Reads what the section names, sends nothing. Knows the file's data and its places, and no running gateway.
"""

from collections.abc import Iterator

from gateway.auth.admin import admin_token
from gateway.auth.jwks import library, read_jwks_file
from gateway.auth.jwt import shared_secret
from gateway.auth.keys import read_key_file
from gateway.config.auth import Auth
from gateway.config.checks import check_secrets
from gateway.config.problems import ConfigProblems, Path, quoted, suggestion
from gateway.config.schema import Document
from gateway.config.tree import Tree
from gateway.errors import ConfigError
from gateway.options import SecretRef


def check_auth(document: Document, tree: Tree, *, resolve_secrets: bool) -> None:
    """Problems of the section, and of ports that need one, added to the tree."""
    auth = document.auth
    if auth != "none":
        _check_ports(document, tree)
    if not isinstance(auth, Auth):
        return
    _check_routes(auth, document, tree)
    if resolve_secrets:
        before = len(tree.problems)
        check_secrets(auth, tree, ("auth",))
        if len(tree.problems) == before:
            _check_files(auth, tree)


def _check_ports(document: Document, tree: Tree) -> None:
    listen, auth = document.listen, document.auth
    asks = isinstance(auth, Auth) and auth.asks_callers
    for name, address in (("http", listen.http), ("grpc", listen.grpc)):
        if address is not None and not address.loopback and not asks:
            tree.problem(
                tree.at_value(("listen", name)),
                ("listen", name),
                f"{address} can be reached from other machines, and nobody is asked who they are; say who "
                "may call, like `auth: {keys: {file: keys.yaml}}` (see `overspill keys create`), "
                f"{_open_to_all(auth)}, or listen on 127.0.0.1:{address.port}",
            )
    _check_scaler(document, tree)
    certified = document.admin_tls is not None and document.admin_tls.client_certificates == "required"
    if not (listen.admin.loopback or certified) and not (isinstance(auth, Auth) and auth.admin is not None):
        tree.problem(
            tree.at_value(("listen", "admin")),
            ("listen", "admin"),
            f"{listen.admin} can be reached from other machines, and the admin port asks nobody who "
            "they are; give it a credential, `auth: {admin: {token: {env: NAME}}}`, or say that it shall "
            f"ask nobody, `auth: {{admin: {{anonymous: true}}}}`, or listen on 127.0.0.1:{listen.admin.port}",
        )


def _check_scaler(document: Document, tree: Tree) -> None:
    address, path = document.scaling.external_scaler, ("scaling", "external_scaler")
    if address is not None and not address.loopback and not document.scaling.anonymous:
        tree.problem(
            tree.at_value(path),
            path,
            f"{address} can be reached from other machines, and the external scaler asks nobody who they "
            "are; say that it shall, `scaling: {anonymous: true}`, where only the autoscaler gets through to "
            f"it, or serve it on 127.0.0.1:{address.port}",
        )


def _open_to_all(auth: object) -> str:
    if isinstance(auth, Auth):
        return "let anybody call with `anonymous: {}` there"
    return "let anybody do anything with `auth: none`"


def _check_routes(auth: Auth, document: Document, tree: Tree) -> None:
    """A route that does not exist is one that was meant to be another."""
    for path, routes in _granted(auth):
        for index, name in enumerate(routes):
            if name not in document.routes:
                hint = suggestion(name, document.routes, "routes")
                place: Path = (*path, "routes", index)
                tree.problem(tree.at_value(place), place, f"no route is called {quoted(name)}; {hint}")


def _granted(auth: Auth) -> Iterator[tuple[Path, list[str]]]:
    for section in ("jwt", "certificates"):
        for index, each in enumerate(getattr(auth, section)):
            yield ("auth", section, index), each.routes or []
    if auth.anonymous is not None:
        yield ("auth", "anonymous"), auth.anonymous.routes or []


def _check_files(auth: Auth, tree: Tree) -> None:
    if auth.keys is not None:
        try:
            read_key_file(auth.keys.file)
        except ConfigProblems as error:
            tree.problems += error.problems
    for index, issuer in enumerate(auth.jwt):
        path: Path = ("auth", "jwt", index)
        try:
            library()
            if issuer.secret is not None:
                shared_secret(issuer)
            elif issuer.jwks_file is not None:
                read_jwks_file(issuer.jwks_file)
        except ConfigError as error:
            tree.problem(tree.at_key(path), path, str(error))
    if auth.admin is not None and auth.admin.token is not None:
        _check_token(auth.admin.token, tree)


def _check_token(token: SecretRef, tree: Tree) -> None:
    path: Path = ("auth", "admin", "token")
    try:
        admin_token(token)
    except LookupError as error:
        tree.problem(tree.at_value(path), path, str(error.args[0]))
