"""The bundled KServe v2 server without its socket: one pure function from request to answer.

Must never know how requests arrive: a local HTTP server (`kserve.py`) and the serverless workers call the
same object. URL grammar from Triton's http_server.cc, answers as tritonserver 2.51 writes them.
"""

import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from backends.emulators import kserve_infer, triton_json
from backends.emulators.kserve_infer import JSON_TYPE, Fields, Model, TensorSpec
from backends.emulators.tensors import Tensor, TritonError
from gateway.clock import Clock, SystemClock

_URL = re.compile(
    r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]+))?"
    r"(?:/(?P<verb>infer|generate|generate_stream|ready|config|stats))?"
)
_HEALTH = re.compile(r"/v2/health/(live|ready)")
_INFERENCE = ("infer", "generate", "generate_stream")
_EXTENSIONS = ("classification", "model_configuration", "binary_tensor_data", "parameters", "statistics")
_COUNTED = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")
_ONE_RESPONSE = (
    "generate expects model to produce exactly 1 response, use generate stream for models that produce"
    " varying number of responses"
)

HeaderFields = Mapping[str, str] | Iterable[tuple[str, str]]
"""Request header fields, names in any case."""


App = Callable[[str, str, str, dict[str, str], bytes], tuple[int, HeaderFields, bytes | Iterable[bytes]]]
"""An app of the worker kit: (method, path, query, headers, body) to (status, headers, body)."""


class Answer(NamedTuple):
    """What to send: `parts` come one at a time where the model streams, in one piece otherwise."""

    status: int
    fields: Fields
    parts: Iterable[bytes]
    streamed: bool = False


class KServeApp:
    """Models behind the v2 REST protocol. Callable from several threads, if the models are.

    ready:    what health/ready says of the server
    unready:  names of models whose `ready` is denied
    """

    def __init__(self, models: Iterable[Model], *, clock: Clock | None = None) -> None:
        self.models = {model.name: model for model in models}
        self.clock = clock or SystemClock()
        self.ready = True
        self.unready: set[str] = set()
        self._statistics = {name: _Statistics() for name in self.models}

    def __call__(
        self, method: str, path: str, query: str, headers: HeaderFields, body: bytes
    ) -> tuple[int, Fields, bytes]:
        """Status, header fields and the whole body. Raises nothing that Triton would answer."""
        answer = self.answer(method, path, headers, body)
        return answer.status, answer.fields, b"".join(answer.parts)

    @staticmethod
    def is_inference(method: str, path: str) -> bool:
        """True for requests that take a slot of the model."""
        match = _URL.fullmatch(path)
        return method == "POST" and match is not None and match["verb"] in _INFERENCE

    def answer(self, method: str, target: str, headers: HeaderFields, body: bytes) -> Answer:
        """The answer to a request for this path and query; a streamed one computes as its parts are taken."""
        path = target.partition("?")[0]
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        fields = {name.lower(): value for name, value in pairs}
        try:
            return self._route(method, path, fields, body)
        except TritonError as error:
            return _refusal(error)

    def _route(self, method: str, path: str, fields: Mapping[str, str], body: bytes) -> Answer:
        if path == "/v2":
            return _only("GET", method, self._server_metadata)
        if health := _HEALTH.fullmatch(path):
            return _only("GET", method, lambda: self._health(health[1]))
        if path == "/v2/models/stats":
            return _only("GET", method, lambda: self._stats(list(self.models)))
        if (match := _URL.fullmatch(path)) is None:
            raise TritonError(404, "Not Found", plain=True)
        name, version, verb = match["model"], match["version"] or "", match["verb"]
        if verb == "infer":
            return _only("POST", method, lambda: self._infer(name, version, fields, body))
        if verb == "ready":
            return _only("GET", method, lambda: self._model_ready(name, version))
        if verb == "stats":
            return _only("GET", method, lambda: self._model_stats(name, version))
        want, work = {
            None: ("GET", lambda: self._metadata(name, version)),
            "config": ("GET", lambda: self._config(name, version)),
            "generate": ("POST", lambda: self._generate(name, version, body)),
            "generate_stream": ("POST", lambda: self._generate_stream(name, version, body)),
        }[verb]
        return _only(want, method, work, plain=False)

    def _find(self, name: str, version: str, *, plain: bool = False) -> tuple[Model, str]:
        model = self.models.get(name)
        if model is None:
            raise TritonError(404, f"Request for unknown model: '{name}' is not found", plain=plain)
        if version and version not in model.versions:
            text = f"Request for unknown model: '{name}' version {version} is not found"
            raise TritonError(404, text, plain=plain)
        return model, version or max(model.versions, key=int)

    def _infer(self, name: str, version: str, fields: Mapping[str, str], body: bytes) -> Answer:
        model, version = self._find(name, version, plain=True)
        if model.decoupled:
            text = "HTTP end point doesn't support models with decoupled transaction policy"
            raise TritonError(501, text)
        request = kserve_infer.read_infer(model, fields, body)
        outputs = self._compute(model, request.inputs)
        answer_fields, answer = kserve_infer.write_infer(model, version, request, outputs)
        return Answer(200, answer_fields, (answer,))

    def _compute(self, model: Model, inputs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        began = self.clock.now()
        try:
            outputs = model.infer(inputs)
        except TritonError:
            raise
        except Exception as error:
            self._statistics[model.name].add(self.clock, began, ok=False)
            raise _model_failed(model, error) from error
        self._statistics[model.name].add(self.clock, began, ok=True)
        return outputs

    def _generate(self, name: str, version: str, body: bytes) -> Answer:
        model, version = self._find(name, version)
        request = kserve_infer.read_generate(model, body)
        if not model.decoupled:
            answers = [self._compute(model, request.inputs)]
        else:
            answers = list(model.stream(request.inputs))
        if len(answers) != 1:
            # Triton has sent its 200 before it notices.
            return _json(200, {"error": _ONE_RESPONSE})
        answer = kserve_infer.write_generate(model, version, request.id, answers[0])
        return Answer(200, [("content-type", JSON_TYPE)], (answer,), streamed=True)

    def _generate_stream(self, name: str, version: str, body: bytes) -> Answer:
        model, version = self._find(name, version)
        request = kserve_infer.read_generate(model, body)
        events = self._events(model, version, request)
        return Answer(200, [("content-type", "text/event-stream; charset=utf-8")], events, streamed=True)

    def _events(self, model: Model, version: str, request: kserve_infer.InferRequest) -> Iterator[bytes]:
        """Server-sent events. The status is out, so an error is one more event."""
        began = self.clock.now()
        try:
            for outputs in model.stream(request.inputs):
                text = kserve_infer.write_generate(model, version, request.id, outputs)
                yield b"data: " + text + b"\n\n"
        except Exception as error:
            failure = error if isinstance(error, TritonError) else _model_failed(model, error)
            yield b"data: " + triton_json.dump({"error": str(failure)}) + b"\n\n"
            self._statistics[model.name].add(self.clock, began, ok=False)
        else:
            self._statistics[model.name].add(self.clock, began, ok=True)

    def _server_metadata(self) -> Answer:
        return _json(200, {"name": "triton", "version": "2.51.0", "extensions": _EXTENSIONS})

    def _health(self, question: str) -> Answer:
        good = question == "live" or self.ready
        return Answer(200 if good else 400, [("content-type", "text/plain")], ())

    def _model_ready(self, name: str, version: str) -> Answer:
        model = self.models.get(name)
        known = model is not None and (not version or version in model.versions)
        if not known or not self.ready or name in self.unready:
            raise TritonError(400, "Model version not ready", plain=True)
        return Answer(200, [("content-type", "text/plain")], ())

    def _metadata(self, name: str, version: str) -> Answer:
        model, _ = self._find(name, version)
        document = {
            "name": model.name,
            "versions": model.versions,
            "platform": model.platform,
            "inputs": [_describe(model, spec) for spec in model.inputs],
            "outputs": [_describe(model, spec) for spec in model.outputs],
        }
        return _json(200, document)

    def _config(self, name: str, version: str) -> Answer:
        model, _ = self._find(name, version)
        return _json(200, _configuration(model))

    def _model_stats(self, name: str, version: str) -> Answer:
        if name not in self.models:
            raise TritonError(400, f"requested model '{name}' is not available")
        if version and version not in self.models[name].versions:
            raise TritonError(400, f"requested model version is not available for model '{name}'")
        return self._stats([name])

    def _stats(self, names: list[str]) -> Answer:
        found = [
            {"name": name, "version": max(self.models[name].versions, key=int)}
            | self._statistics[name].report()
            for name in sorted(names)
        ]
        return _json(200, {"model_stats": found})


class FunctionApp(KServeApp):
    """An app of the worker kit in the place of models: it answers everything itself."""

    def __init__(self, function: App) -> None:
        super().__init__(())
        self._function = function

    def answer(self, method: str, target: str, headers: HeaderFields, body: bytes) -> Answer:
        """What the function answers; an iterator of bytes is streamed."""
        path, _, query = target.partition("?")
        pairs = headers.items() if isinstance(headers, Mapping) else headers
        status, fields, content = self._function(method, path, query, dict(pairs), body)
        given = list(fields.items() if isinstance(fields, Mapping) else fields)
        if isinstance(content, bytes):
            return Answer(status, given, (content,))
        return Answer(status, given, content, streamed=True)


class _Statistics:
    """What `/stats` says of one model. Filled from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts = {True: 0, False: 0}
        self._nanoseconds = {True: 0, False: 0}
        self._last_ms = 0

    def add(self, clock: Clock, began: float, *, ok: bool) -> None:
        """One execution ended now."""
        with self._lock:
            self._counts[ok] += 1
            self._nanoseconds[ok] += max(0, int((clock.now() - began) * 1e9))
            self._last_ms = int(clock.wall() * 1000)

    def report(self) -> dict[str, Any]:
        """Triton's shape. The model's own time is all compute: there is no queue inside."""
        with self._lock:
            good = {"count": self._counts[True], "ns": self._nanoseconds[True]}
            instant = {"count": self._counts[True], "ns": 0}
            failed = {"count": self._counts[False], "ns": self._nanoseconds[False]}
            last = self._last_ms
        by_name = {"success": good, "fail": failed, "compute_infer": good}
        return {
            "last_inference": last,
            "inference_count": good["count"],
            "execution_count": good["count"],
            "inference_stats": {name: by_name.get(name, instant) for name in _COUNTED}
            | {name: {"count": 0, "ns": 0} for name in ("cache_hit", "cache_miss")},
            "response_stats": {},
            "batch_stats": [],
            "memory_usage": [],
        }


def _only(method: str, given: str, work: Any, *, plain: bool = True) -> Answer:
    if given != method:
        raise TritonError(405, "Method Not Allowed", plain=plain)
    answer: Answer = work()
    return answer


def _json(status: int, document: object) -> Answer:
    return Answer(status, [("content-type", JSON_TYPE)], (triton_json.dump(document),))


def _refusal(error: TritonError) -> Answer:
    kind = "text/plain" if error.plain else JSON_TYPE
    return Answer(error.status, [("content-type", kind)], (triton_json.dump({"error": str(error)}),))


def _model_failed(model: Model, error: Exception) -> TritonError:
    reason = f"{type(error).__name__}: {error}"
    text = f"Failed to process the request(s) for model '{model.name}_0_0', message: {reason}"
    return TritonError(500, text, plain=True)


def _describe(model: Model, spec: TensorSpec) -> dict[str, Any]:
    batch = (-1,) if model.max_batch_size else ()
    return {"name": spec.name, "datatype": spec.datatype, "shape": (*batch, *spec.shape)}


def _type(spec: TensorSpec) -> str:
    return "TYPE_STRING" if spec.datatype == "BYTES" else f"TYPE_{spec.datatype}"


def _configuration(model: Model) -> dict[str, Any]:
    """The model configuration, as far as a client looks at it; keys in Triton's order."""
    return {
        "name": model.name,
        "platform": "",
        "backend": model.platform,
        "runtime": "",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": model.max_batch_size,
        "input": [
            {"name": spec.name, "data_type": _type(spec), "format": "FORMAT_NONE", "dims": spec.shape}
            | {"is_shape_tensor": False, "allow_ragged_batch": False, "optional": False}
            | {"is_non_linear_format_io": False}
            for spec in model.inputs
        ],
        "output": [
            {"name": spec.name, "data_type": _type(spec), "dims": spec.shape, "label_filename": ""}
            | {"is_shape_tensor": False, "is_non_linear_format_io": False}
            for spec in model.outputs
        ],
        "instance_group": [{"name": f"{model.name}_0", "kind": "KIND_CPU", "count": 1}],
        "parameters": {},
        "model_transaction_policy": {"decoupled": model.decoupled},
    }
