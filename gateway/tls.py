"""TLS on the ports: the certificate that each shows, renewed when its files change, and the handshakes.

A port whose connections are to be encrypted accepts them here, and hands those on whose handshake succeeded;
the others are counted. Which files there are is told to it; it never knows what is said on a connection.

    new files ──► read, held against each other ──► shown to the connections that come from then on
              └──► wrong: the last good ones stay, and it is said
"""

import asyncio
import logging
import socket
import ssl
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from gateway.background import Background
from gateway.bound_sockets import listening
from gateway.certificates import BadFile, Files, ServerCertificate, key_file, load
from gateway.clock import Clock
from gateway.metric_families import counted, gauged

log = logging.getLogger("overspill.tls")

LOOK_EVERY_S = 1.0
SETTLED_S = 0.2
"""Files that have changed are read when they stay the same for so long: they are written one by one."""
GOODBYE_S = 1.0
"""How long a client may take to answer that a connection is over."""
MOST_HANDSHAKES = 1024
"""Handshakes of one port under way at once; beyond it connections are closed as they come."""
_BACKLOG = 2048
_AT_ONCE = 64
_NO_DESCRIPTOR_PAUSE_S = 0.5

FAILURES = ("timeout", "left", "not_tls", "version", "client_certificate", "refused", "full", "other")
"""Why a handshake failed: `refused` by the client, as for a certificate that it does not trust; `left`: it
closed the connection; `full`: too many connections at once."""
_VERSION_REASONS = frozenset(
    ("UNSUPPORTED_PROTOCOL", "VERSION_TOO_LOW", "WRONG_SSL_VERSION", "NO_PROTOCOLS_AVAILABLE")
)
_NOT_TLS = frozenset(("HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"))
_Marks = tuple[tuple[int, ...] | None, ...]


class PortTls:
    """What one port shows its clients, and what became of their handshakes.

    port:  its name in logs and metrics

    Raises BadFile where the files cannot be used.
    """

    def __init__(self, files: Files, *, port: str, clock: Clock) -> None:
        self.port = port
        self.files = files
        self.failures: Counter[str] = Counter()
        self.renewals = {"ok": 0, "rejected": 0}
        self.rejected: str | None = None
        self._clock = clock
        self._marks = self._look()
        self.shown: ServerCertificate = load(files)

    @property
    def context(self) -> ssl.SSLContext:
        """For the next connection."""
        return self.shown.context

    async def changed(self) -> None:
        """Return when the files look otherwise than when they were read last, and stay so for a moment."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            marks = self._look()
            if marks == self._marks:
                continue
            while True:
                await asyncio.sleep(SETTLED_S)
                before, marks = marks, self._look()
                if marks == before:
                    return

    async def renew(self) -> None:
        """Read the files again if they have changed. Where they cannot be used, nothing changes.

        Nor does it where a certificate has expired, while that which is shown has not.
        """
        marks = self._look()
        if marks == self._marks:
            return
        self._marks = marks
        try:
            shown = await asyncio.to_thread(load, self.files)
            if shown.expires <= self._clock.wall() < self.shown.expires:
                raise BadFile("certificate", f"{self.files.certificate} has expired")
        except BadFile as error:
            self.renewals["rejected"] += 1
            self.rejected = str(error)
            log.error("the certificate of the %s stays as it was: %s", self.port, error)
            return
        self.rejected = None
        if shown.pems != self.shown.pems:
            self.renewals["ok"] += 1
            self.shown = shown
            days = (shown.expires - self._clock.wall()) / 86400
            log.info("the %s shows a new certificate, which expires in %.0f days", self.port, days)

    def failed(self, error: BaseException) -> None:
        """A handshake came to nothing."""
        reason = why(error)
        self.failures[reason] += 1
        log.debug("a TLS handshake at the %s failed: %s", self.port, reason)

    @property
    def left_s(self) -> float:
        """Seconds until the certificate expires; less than 0 when it has."""
        return self.shown.expires - self._clock.wall()

    def _look(self) -> _Marks:
        files = self.files
        marks: list[tuple[int, ...] | None] = []
        for path in (files.certificate, key_file(files.key), files.client_ca):
            try:
                found = None if path is None else path.stat()  # of what a link leads to
            except OSError:
                found = None
            marks.append(
                None
                if found is None
                else (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
            )
        return tuple(marks)


class Tls(Collector):
    """The TLS of all ports; `data` and `admin` are None where one speaks in the clear."""

    def __init__(self, data: Files | None, admin: Files | None, clock: Clock) -> None:
        self.data = None if data is None else PortTls(data, port="data port", clock=clock)
        self.admin = None if admin is None else PortTls(admin, port="admin port", clock=clock)

    def only_data(self) -> "Tls":
        """The same for a process that serves no admin port."""
        return self._part(self.data, None)

    def only_admin(self) -> "Tls":
        """The same for a process that serves nothing else."""
        return self._part(None, self.admin)

    def _part(self, data: PortTls | None, admin: PortTls | None) -> "Tls":
        part = Tls.__new__(Tls)
        part.data, part.admin = data, admin
        return part

    @property
    def ports(self) -> Sequence[tuple[str, PortTls]]:
        """Those that have it, by their label in metrics."""
        both = (("data", self.data), ("admin", self.admin))
        return [(label, port) for label, port in both if port is not None]

    async def renew(self) -> None:
        """Read every file again that has changed."""
        for _, port in self.ports:
            await port.renew()

    def watch(self, background: Background) -> None:
        """Read files again whenever they change."""
        for label, port in self.ports:
            background.spawn(_watch(port), name=f"watch the certificate of the {label} port")

    def collect(self) -> Iterator[Metric]:
        """As metrics; none where nothing is encrypted."""
        ports = self.ports
        if not ports:
            return
        yield gauged(
            "certificate_expires_seconds",
            "Time until the certificate that a port shows expires; below 0 when it has.",
            ["port"],
            {(label,): port.left_s for label, port in ports},
        )
        yield gauged(
            "certificate_last_renewal_successful",
            "0 while the files of a port's certificate have changed and cannot be used.",
            ["port"],
            {(label,): float(port.rejected is None) for label, port in ports},
        )
        yield counted(
            "certificate_renewals",
            "Files of a certificate that changed, by what became of them.",
            ["port", "result"],
            {(label, result): n for label, port in ports for result, n in port.renewals.items()},
        )
        yield counted(
            "tls_handshake_failures",
            "Connections whose TLS handshake failed, by why.",
            ["port", "reason"],
            {(label, reason): port.failures[reason] for label, port in ports for reason in FAILURES},
        )


async def _watch(port: PortTls) -> None:
    while True:
        await port.changed()
        await port.renew()


def why(error: BaseException) -> str:
    """One of `FAILURES`."""
    if isinstance(error, ConnectionAbortedError | TimeoutError):
        return "timeout"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "client_certificate"
    if not isinstance(error, ssl.SSLError) or isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return "left"
    reason = getattr(error, "reason", None) or ""  # an error that Python itself raises has none
    if reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE":
        return "client_certificate"
    if reason in _NOT_TLS:
        return "not_tls"
    if reason in _VERSION_REASONS:
        return "version"
    return "refused" if "ALERT" in reason else "other"


class TlsServer:
    """Accepts the connections of a port; it looks like what `loop.create_server` returns.

    made:               the protocol of a connection whose handshake has succeeded
    http2:              whether it is HTTP/2 that is spoken there
    handshake_timeout:  seconds that a handshake may take
    room:               whether there is room for a connection beside so many that shake hands
    """

    def __init__(
        self,
        tls: PortTls,
        made: Callable[[], asyncio.Protocol],
        *,
        http2: bool = False,
        handshake_timeout: Callable[[], float],
        room: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self.sockets: list[socket.socket] = []
        self._tls = tls
        self._made = made
        self._http2 = http2
        self._timeout = handshake_timeout
        self._room = room
        self._loop = asyncio.get_running_loop()
        self._background = Background()
        self._handshakes: set[asyncio.Task[None]] = set()

    @property
    def handshakes(self) -> int:
        """Those under way."""
        return len(self._handshakes)

    async def open(self, host: str, port: int) -> None:
        """Listen. Raises OSError."""
        found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        try:
            for family, kind, number, _, address in dict.fromkeys(found):
                self.serve(listening(family, kind, number, address, backlog=_BACKLOG))
        except OSError:
            self.close()
            raise

    def serve(self, queue: socket.socket) -> None:
        """Accept from a socket that listens."""
        queue.settimeout(0.0)
        self.sockets.append(queue)
        self._loop.add_reader(queue, self._accept, queue)

    def leave(self) -> None:
        """Accept no more; who shakes hands goes on."""
        for queue in self.sockets:
            self._loop.remove_reader(queue)
            queue.close()
        self.sockets = []

    def close(self) -> None:
        """Accept no more; what has not shaken hands yet is cut off."""
        self.leave()
        for handshake in self._handshakes:
            handshake.cancel()

    def _accept(self, queue: socket.socket) -> None:
        for _ in range(_AT_ONCE):
            try:
                client, _address = queue.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:  # no descriptor is left: the connection stays in the queue
                log.error("the %s cannot accept: %s", self._tls.port, error.strerror)
                self._loop.remove_reader(queue)
                self._loop.call_later(_NO_DESCRIPTOR_PAUSE_S, self._go_on, queue)
                return
            under_way = len(self._handshakes)
            if under_way >= MOST_HANDSHAKES or not self._room(under_way):
                self._tls.failures["full"] += 1
                client.close()
                continue
            client.settimeout(0.0)
            task = self._background.start(self._shake(client), name="TLS handshake")
            self._handshakes.add(task)
            task.add_done_callback(self._handshakes.discard)

    def _go_on(self, queue: socket.socket) -> None:
        if queue in self.sockets:
            self._loop.add_reader(queue, self._accept, queue)

    async def _shake(self, client: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(
                self._made,
                client,
                ssl=self._tls.shown.http2 if self._http2 else self._tls.context,
                ssl_handshake_timeout=self._timeout(),
                ssl_shutdown_timeout=GOODBYE_S,
            )
        except OSError as error:  # ssl.SSLError is one
            self._tls.failed(error)
