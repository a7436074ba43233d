"""KEDA's external scaler: says over gRPC how many replicas of a backend are wanted.

Serves `externalscaler.ExternalScaler` from KEDA's `externalscaler.proto`. Knows the signals and the messages;
it never knows a backend, a price or the rule. The library is imported when the port is to be opened, for
most gateways have none. Whoever reaches the port may ask: it belongs on an address of the cluster's own.

The trigger's metadata names the backend (`backend: fleet`); a gateway with one owned backend needs no name.
The metric is the number of wanted replicas with a target of 1, so that an HPA with `metricType: AverageValue`
(KEDA's default) comes to just that number. What is not known yet is UNAVAILABLE, and KEDA changes nothing.
"""

import contextlib
from collections.abc import AsyncIterator, Callable
from typing import Any, TypeVar

from backends.protobuf_wire import Malformed
from gateway.errors import ConfigError
from gateway.scaling import messages
from gateway.scaling.messages import ScaledObject
from gateway.scaling.signals import ScalingSignals

SERVICE = "externalscaler.ExternalScaler"
METRIC = "overspill-wanted-replicas"
BACKEND = "backend"
"""Key of the trigger's metadata."""
TARGET = 1.0

NEEDS_LIBRARY = (
    "scaling.external_scaler needs the grpcio package, which is not installed: pip install 'overspill[grpc]'"
)
LARGEST_MESSAGE = 64 * 1024
STREAMS = 1_000
_GRACE_S = 0.5

Message = TypeVar("Message")


def library() -> Any:
    """The gRPC library. Raises ConfigError where it is not installed."""
    try:
        import grpc.aio  # noqa: PLC0415 - optional
    except ImportError:
        raise ConfigError(NEEDS_LIBRARY) from None
    return grpc


class _NotSaid(Exception):
    """There is no number: the status to answer with, and why."""

    def __init__(self, code: str, why: str) -> None:
        super().__init__(why)
        self.code = code


class ExternalScaler:
    """The service on a port of its own."""

    def __init__(self, signals: ScalingSignals) -> None:
        self._grpc = library()
        self._signals = signals
        self._server: Any = None
        self._handlers = self._methods()

    async def open(self, host: str, port: int) -> tuple[str, int]:
        """Listen; returns the address really bound (port 0 asks the system for one). Raises OSError."""
        server = self._grpc.aio.server(
            maximum_concurrent_rpcs=STREAMS,
            options=(
                ("grpc.max_receive_message_length", LARGEST_MESSAGE),
                ("grpc.so_reuseport", 0),
                ("grpc.keepalive_permit_without_calls", 1),
                ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
            ),
        )
        server.add_generic_rpc_handlers((self,))
        address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        try:
            bound = server.add_insecure_port(address)
        except RuntimeError:
            raise OSError(f"scaling.external_scaler: {address} cannot be opened; is it in use?") from None
        await server.start()
        self._server = server
        return host, int(bound)

    async def close(self) -> None:
        """Stop. Stopping twice does nothing."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(_GRACE_S)

    def service(self, details: Any) -> Any:
        """The handler of a method, None for one that is not known: what `grpc` asks a generic handler."""
        return self._handlers.get(details.method)

    def _methods(self) -> dict[str, Any]:
        grpc = self._grpc
        unary = grpc.unary_unary_rpc_method_handler
        return {
            f"/{SERVICE}/IsActive": unary(self._is_active),
            f"/{SERVICE}/StreamIsActive": grpc.unary_stream_rpc_method_handler(self._stream_is_active),
            f"/{SERVICE}/GetMetricSpec": unary(self._metric_spec),
            f"/{SERVICE}/GetMetrics": unary(self._metrics),
        }

    async def _is_active(self, message: bytes, context: Any) -> bytes:
        scaled = await self._read(messages.read_scaled_object, message, context)
        return messages.active(await self._said(scaled, context) > 0)

    async def _stream_is_active(self, message: bytes, context: Any) -> AsyncIterator[bytes]:
        """One message now and one whenever it has become something else (`external-push`)."""
        scaled = await self._read(messages.read_scaled_object, message, context)
        told: bool | None = None
        await self._named(scaled, context)
        while True:
            change = self._signals.change
            with contextlib.suppress(_NotSaid):
                now = self._wanted(scaled) > 0
                if now is not told:
                    told = now
                    yield messages.active(now)
            await change.wait()

    async def _metric_spec(self, message: bytes, context: Any) -> bytes:
        scaled = await self._read(messages.read_scaled_object, message, context)
        return messages.metric_spec(f"{METRIC}-{await self._named(scaled, context)}", TARGET)

    async def _metrics(self, message: bytes, context: Any) -> bytes:
        asked = await self._read(messages.read_metrics_request, message, context)
        return messages.metric_value(asked.metric, float(await self._said(asked.scaled, context)))

    async def _read(self, read: Callable[[bytes], Message], message: bytes, context: Any) -> Message:
        try:
            return read(message)
        except Malformed as error:
            await context.abort(self._grpc.StatusCode.INVALID_ARGUMENT, str(error))
            raise

    async def _named(self, scaled: ScaledObject, context: Any) -> str:
        try:
            return self._backend(scaled)
        except _NotSaid as error:
            await context.abort(self._grpc.StatusCode[error.code], str(error))
            raise

    async def _said(self, scaled: ScaledObject, context: Any) -> int:
        try:
            return self._wanted(scaled)
        except _NotSaid as error:
            await context.abort(self._grpc.StatusCode[error.code], str(error))
            raise

    def _backend(self, scaled: ScaledObject) -> str:
        known = self._signals.backends
        name = scaled.metadata.get(BACKEND)
        if not known:
            raise _NotSaid("UNAVAILABLE", "no owned backend has been looked at yet")
        if name is None and len(known) == 1:
            return known[0]
        if name not in known:
            which = "is missing" if name is None else f"says {name[:64]!r}, which is no owned backend"
            raise _NotSaid(
                "INVALID_ARGUMENT",
                f"`{BACKEND}` in the trigger's metadata {which}; write one of: {', '.join(known)}",
            )
        return name

    def _wanted(self, scaled: ScaledObject) -> int:
        verdict = self._signals.verdict(self._backend(scaled))
        if verdict is None or verdict.wanted is None:
            raise _NotSaid("UNAVAILABLE", "it is not known yet how many replicas there are")
        return verdict.wanted
