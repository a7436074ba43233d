"""moto as Lambda, SageMaker and S3: it checks every signature of ours with botocore's own code. Opt-in.

moto looks a key up and signs the request it got anew, with botocore; what differs is refused.
"""

import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import pytest

from backends.aws_lambda import AwsLambda
from backends.sagemaker import SageMakerRealtime, SageMakerServerless
from backends.sagemaker_async import SageMakerAsync
from backends.workers import kit
from gateway.errors import BackendBroke, BackendDenied
from tests.peers.test_runpod import free_port, needs, process
from tests.support.endpoints import answer
from tests.support.provider import a_call, built

ANYTHING = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
UNSIGNED = (
    "AWS4-HMAC-SHA256 Credential=none/20260101/us-east-1/{}/aws4_request, SignedHeaders=host, Signature=0"
)


class Moto(NamedTuple):
    url: str
    session: aiohttp.ClientSession

    async def told(self, path: str, document: Any) -> None:
        """Say what it is to answer."""
        async with self.session.post(f"{self.url}/moto-api/{path}", json=document) as said:
            assert said.status in (200, 201), await said.text()

    async def user(self, action: str, **more: str) -> str:
        """One operation of IAM about the one user that there is; before signatures are checked."""
        form = {"Action": action, "Version": "2010-05-08", "UserName": "gateway", **more}
        headers = {"authorization": UNSIGNED.format("iam")}
        async with self.session.post(self.url, data=form, headers=headers) as said:
            assert said.status == 200, await said.text()
            return await said.text()


@asynccontextmanager
async def moto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Moto]:
    """With one user who may do anything, and whose keys are in the environment; no other gets in."""
    needs("moto.server")
    port = free_port()
    arguments = ("-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
    async with process(port, *arguments, cwd=tmp_path) as url, aiohttp.ClientSession() as session:
        server = Moto(url, session)
        await server.user("CreateUser")
        await server.user("PutUserPolicy", PolicyName="all", PolicyDocument=json.dumps(ANYTHING))
        keys = await server.user("CreateAccessKey")
        for name, variable in (("AccessKeyId", "MOTO_KEY"), ("SecretAccessKey", "MOTO_SECRET")):
            found = re.search(f"<{name}>([^<]+)</{name}>", keys)
            assert found is not None
            monkeypatch.setenv(variable, found[1])
        monkeypatch.setenv("MOTO_WRONG", "not-its-secret")
        async with session.post(f"{url}/moto-api/reset-auth", data="0") as said:
            assert said.status == 200
        yield server


def section(kind: Any, server: Moto, *, secret: str = "MOTO_SECRET", **more: Any) -> dict[str, Any]:
    keys = {"access_key": {"env": "MOTO_KEY"}, "secret_key": {"env": secret}}
    return {**kind.example(server.url), "credentials": keys, **more}


async def refused(kind: Any, server: Moto, **more: Any) -> None:
    """With another secret nothing gets in: so it was the signature that opened before."""
    async with built(kind, section(kind, server, secret="MOTO_WRONG", **more)) as (backend, _):
        with pytest.raises(BackendDenied) as caught:
            await answer(backend, a_call(b"x"))
    assert "not-its-secret" not in str(caught.value)


async def test_lambda_takes_our_signed_invocations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = json.dumps(kit.write_result(201, [("x-a", "1")], b"answer"))
    async with moto(tmp_path, monkeypatch) as server:
        await server.told("config", {"lambda": {"use_docker": False}})
        await server.told("static/lambda-simple/response", {"results": [result, result]})
        for more in ({"qualifier": "live"}, {"function": "a_b-C"}):
            async with built(AwsLambda, section(AwsLambda, server, **more)) as (backend, _):
                reply = await answer(backend, a_call(bytes(range(256)), target=b"/v2/a%2Fb?x=%20"))
                assert (reply.status, reply.body, reply.headers) == (201, b"answer", [(b"x-a", b"1")])
        await refused(AwsLambda, server)


@pytest.mark.parametrize("kind", [SageMakerServerless, SageMakerRealtime])
async def test_sagemaker_takes_our_signed_invocations(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moto(tmp_path, monkeypatch) as server:
        boot = "x-overspill-boot-id=b1;x-overspill-boot-age=0.5"
        found = {"Body": '{"a":1}', "ContentType": "application/json", "CustomAttributes": boot}
        await server.told("static/sagemaker/endpoint-results", {"results": [found]})
        async with built(kind, section(kind, server)) as (backend, _):
            headers = [(b"content-type", b"application/json"), (b"x-amzn-sagemaker-session-id", b"s 1")]
            reply = await answer(backend, a_call(b'{"inputs":[]}', headers=headers))
            assert (reply.status, reply.body) == (200, b'{"a":1}')
            assert dict(reply.headers)[b"content-type"] == b"application/json"
            assert reply.usage is not None
            assert reply.usage.instance
        await refused(kind, server)


async def test_an_asynchronous_answer_is_fetched_from_s3(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with moto(tmp_path, monkeypatch) as server:
        results = [{"data": '{"a":1}'}, {"is_failure": True, "data": "out of memory"}]
        await server.told("static/sagemaker/async-endpoint-results", {"results": results})
        async with built(SageMakerAsync, section(SageMakerAsync, server)) as (backend, _):
            reply = await answer(backend, a_call(b'{"inputs":[]}'))
            assert (reply.status, reply.body) == (200, b'{"a":1}')
        async with built(SageMakerAsync, section(SageMakerAsync, server, endpoint="another")) as (backend, _):
            with pytest.raises(BackendBroke, match="out of memory"):
                await answer(backend, a_call(b'{"inputs":[]}'))
        await refused(SageMakerAsync, server)
