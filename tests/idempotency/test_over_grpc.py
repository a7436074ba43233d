"""The same promise over gRPC, where the key comes as metadata."""

import grpc
import pytest

from tests.grpc_ingress.support import SHED, fields, file, fleet, front, replica, request

KEY = (("idempotency-key", "k-1"),)


async def test_a_repeated_rpc_gets_the_first_answer_and_is_not_carried_out_again() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        message = request(raw_input_contents=[b"1234"])
        assert await gate.infer(message, metadata=KEY) == await gate.infer(message, metadata=KEY)
        again = gate.infer(message, metadata=KEY)
        await again
        assert fields(await again.trailing_metadata())["idempotency-replayed"] == "true"
        assert len(one.seen) == 1


async def test_the_same_key_for_another_message_is_an_invalid_argument() -> None:
    async with replica() as one, front(file({"fleet": fleet(one)}, SHED)) as gate:
        await gate.infer(request(raw_input_contents=[b"1234"]), metadata=KEY)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await gate.infer(request(raw_input_contents=[b"4321"]), metadata=KEY)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        assert "idempotency-key" in (caught.value.details() or "")
        assert len(one.seen) == 1
