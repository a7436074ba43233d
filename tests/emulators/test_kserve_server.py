"""The bundled KServe v2 server on a socket: slots, queue, trouble on demand, and Triton's own client."""

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import aiohttp
import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tritonclient.utils import InferenceServerException

from backends.emulators.kserve import KServeServer, Trouble
from tests.emulators.apps import ALL_TYPES, echo, models, until

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}).encode()
ANSWER = (
    b'{"model_name":"double","model_version":"2","outputs":'
    b'[{"name":"y","datatype":"FP32","shape":[1,1],"data":[2.0]}]}'
)

TYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16,
    "FP32": np.float32, "FP64": np.float64,
}  # fmt: skip


def array(datatype: str) -> Any:
    if datatype == "BYTES":
        return np.array(["h\u00e9".encode(), b""], dtype=np.object_)
    if datatype == "BOOL":
        return np.array([True, False])
    kind = TYPES[datatype]
    most = np.iinfo(kind).max if np.issubdtype(kind, np.integer) else np.finfo(kind).max
    return np.array([1, most], dtype=kind)


async def post(
    server: KServeServer, body: bytes = BODY, path: str = "/v2/models/double/infer", **options: Any
) -> tuple[int, bytes]:
    async with (
        aiohttp.ClientSession(auto_decompress=False) as session,
        session.post(server.url + path, data=body, **options) as answer,
    ):
        return answer.status, await answer.read()


class Held:
    """A sleep that lasts until it is let go: the pace of a server under a test's control."""

    def __init__(self) -> None:
        self.asleep = 0
        self.go = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asleep += 1
        await self.go.wait()


async def test_slots_bound_what_runs_at_once_and_the_rest_waits() -> None:
    held = Held()
    async with KServeServer(models(), slots=2, pace_s=1.0, sleep=held) as server:
        asked = [asyncio.ensure_future(post(server)) for _ in range(5)]
        await until(lambda: server.in_flight == 5 and held.asleep == 2)
        held.go.set()
        assert [status for status, _ in await asyncio.gather(*asked)] == [200] * 5
    assert (server.seen_running_max, server.seen_in_flight_max, server.in_flight) == (2, 5, 0)


async def test_full_queue_is_tritons_503() -> None:
    held = Held()
    async with KServeServer(models(), slots=1, queue_limit=1, pace_s=1.0, sleep=held) as server:
        asked = [asyncio.ensure_future(post(server)) for _ in range(2)]
        await until(lambda: server.in_flight == 2 and held.asleep == 1)
        assert await post(server) == (
            503,
            b'{"error":"[request id: <id_unknown>] Exceeds maximum queue size"}',
        )
        held.go.set()
        await asyncio.gather(*asked)


async def test_questions_take_no_slot() -> None:
    held = Held()
    async with KServeServer(models(), slots=1, queue_limit=0, pace_s=1.0, sleep=held) as server:
        asked = asyncio.ensure_future(post(server))
        await until(lambda: held.asleep == 1)
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v2/health/ready") as answer:
            assert answer.status == 200
        held.go.set()
        await asked


async def test_pace_is_a_floor_under_service_time() -> None:
    async with KServeServer(models(), pace_s=0.1) as server:
        loop = asyncio.get_running_loop()
        began = loop.time()
        assert (await post(server))[0] == 200
        assert loop.time() - began >= 0.095  # timers may fire a little early


async def test_hang_up_frees_the_slot() -> None:
    held = Held()
    async with KServeServer(models(), slots=1, pace_s=1.0, sleep=held) as server:
        asked = asyncio.ensure_future(post(server))
        await until(lambda: held.asleep == 1)
        asked.cancel()
        await asyncio.gather(asked, return_exceptions=True)
        await until(lambda: server.in_flight == 0)
        assert (server.hung_up, server.running) == (1, 0)
        held.go.set()
        assert (await post(server))[0] == 200


@pytest.mark.parametrize(
    ("encoding", "read"), [("gzip, deflate", gzip.decompress), ("identity", bytes), ("br", bytes)]
)
async def test_answers_are_compressed_for_clients_that_accept_it(
    encoding: str, read: Callable[[bytes], bytes]
) -> None:
    async with KServeServer(models()) as server:
        _, body = await post(server, headers={"accept-encoding": encoding})
    assert read(body) == ANSWER
    assert (body == ANSWER) is (read is bytes)


@pytest.mark.parametrize("trouble", ["refuse", "garbage", "die"])
async def test_trouble_cuts_the_connection_once(trouble: Trouble) -> None:
    async with KServeServer(models()) as server:
        server.fail_next(1, trouble)
        with pytest.raises(aiohttp.ClientError):
            await post(server)
        assert await post(server, headers={"accept-encoding": "identity"}) == (200, ANSWER)


async def test_dying_server_has_sent_its_head_and_half_of_the_body() -> None:
    async with KServeServer(models()) as server, aiohttp.ClientSession() as session:
        server.fail_next(1, "die")
        headers = {"accept-encoding": "identity"}
        async with session.post(f"{server.url}/v2/models/double/infer", data=BODY, headers=headers) as answer:
            assert answer.status == 200
            assert answer.content_length == len(ANSWER)
            with pytest.raises(aiohttp.ClientPayloadError):
                await answer.read()


@pytest.mark.parametrize("trouble", ["stall", "truncate"])
async def test_stalled_answers_go_on_when_released(trouble: Trouble) -> None:
    async with KServeServer(models()) as server:
        server.fail_next(1, trouble)
        asked = asyncio.ensure_future(post(server, headers={"accept-encoding": "identity"}))
        await until(lambda: server.in_flight == 1)
        done, _ = await asyncio.wait((asked,), timeout=0.05)
        assert not done
        server.release()
        assert await asked == (200, ANSWER)


async def test_status_on_demand_and_only_for_inference() -> None:
    async with KServeServer(models()) as server:
        server.fail_next(2, 503)
        async with aiohttp.ClientSession() as session, session.get(f"{server.url}/v2/health/live") as answer:
            assert answer.status == 200
        assert [(await post(server))[0] for _ in range(3)] == [503, 503, 200]


async def test_closed_socket_refuses_and_the_same_port_opens_again() -> None:
    async with KServeServer(models()) as server:
        url = server.url
        await server.stop_listening()
        with pytest.raises(aiohttp.ClientConnectorError):
            await post(server)
        await server.listen()
        assert server.url == url
        assert (await post(server))[0] == 200


async def test_requests_are_remembered_as_they_came() -> None:
    async with KServeServer(models()) as server:
        await post(server, path="/v2/models/double/infer?a=b", headers={"X-Mine": "1"})
        (seen,) = server.requests
    assert (seen.method, seen.target, seen.body) == ("POST", "/v2/models/double/infer?a=b", BODY)
    assert ("x-mine", "1") in seen.headers


async def test_stream_is_chunked_and_arrives_event_by_event() -> None:
    body = b'{"text_input":"a b c"}'
    async with KServeServer(models()) as server, aiohttp.ClientSession() as session:
        async with session.post(f"{server.url}/v2/models/writer/generate_stream", data=body) as answer:
            assert answer.headers["transfer-encoding"] == "chunked"
            chunks = [chunk async for chunk, _ in answer.content.iter_chunks()]
    events = b"".join(chunks).split(b"\n\n")
    assert [json.loads(event[6:])["text_output"] for event in events if event] == ["a", "b", "c"]


async def test_an_app_of_the_worker_kit_can_be_served_too() -> None:
    async with KServeServer(echo) as server:
        assert await post(server, b"abc", headers={"accept-encoding": "identity"}) == (200, b"cba")


async def test_triton_client_json_and_binary_over_every_datatype() -> None:
    async with KServeServer(models()) as server:
        await asyncio.to_thread(every_datatype, server.url.removeprefix("http://"))


def every_datatype(address: str) -> None:
    client = triton.InferenceServerClient(address)
    try:
        for binary in (True, False):
            inputs, outputs = [], []
            for datatype in ALL_TYPES:
                # JSON cannot carry half floats, in either direction.
                as_binary = binary or datatype == "FP16"
                entry = triton.InferInput(datatype.lower(), [2], datatype)
                entry.set_data_from_numpy(array(datatype), binary_data=as_binary)
                inputs.append(entry)
                outputs.append(triton.InferRequestedOutput(datatype.lower(), binary_data=as_binary))
            result = client.infer("same", inputs, outputs=outputs, request_id="r1")
            assert result.get_response()["id"] == "r1"
            for datatype in ALL_TYPES:
                found = result.as_numpy(datatype.lower())
                wanted = array(datatype)
                if datatype == "BYTES" and not binary:
                    wanted = np.array(["h\u00e9", ""], dtype=np.object_)
                np.testing.assert_array_equal(found, wanted)
    finally:
        client.close()


async def test_triton_client_asks_about_server_and_model() -> None:
    async with KServeServer(models()) as server:
        await asyncio.to_thread(questions, server.url.removeprefix("http://"))


def questions(address: str) -> None:
    client = triton.InferenceServerClient(address)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("double")
        assert not client.is_model_ready("nope")
        assert "binary_tensor_data" in client.get_server_metadata()["extensions"]
        assert client.get_model_metadata("double")["inputs"][0]["datatype"] == "FP32"
        assert client.get_model_config("double")["max_batch_size"] == 8
        assert client.get_inference_statistics("double")["model_stats"][0]["name"] == "double"
        entry = triton.InferInput("x", [1, 1], "FP32")
        entry.set_data_from_numpy(np.ones((1, 1), np.float32))
        with pytest.raises(InferenceServerException, match="unknown model: 'nope'"):
            client.infer("nope", [entry])
        with pytest.raises(InferenceServerException, match="unexpected shape"):
            wrong = triton.InferInput("x", [1], "FP32")
            wrong.set_data_from_numpy(np.ones(1, np.float32))
            client.infer("double", [wrong])
    finally:
        client.close()


async def test_triton_asyncio_client() -> None:
    async with KServeServer(models()) as server:
        client = triton_aio.InferenceServerClient(server.url.removeprefix("http://"))
        try:
            entry = triton.InferInput("x", [2, 3], "FP32")
            numbers = np.arange(6, dtype=np.float32).reshape(2, 3)
            entry.set_data_from_numpy(numbers)
            results = await asyncio.gather(*(client.infer("double", [entry]) for _ in range(5)))
            for result in results:
                np.testing.assert_array_equal(result.as_numpy("y"), 2 * numbers)
        finally:
            await client.close()
