"""RunPod answers with another job than it was asked for: nobody gets it, and the connection is given up."""

import pytest

from gateway.errors import BackendBroke, BackendError
from gateway.vocab import Work
from tests.serverless.test_runpod import endpoint, job, result, scripted
from tests.support.provider import a_call, until


def answer(name: str, text: str) -> dict[str, object]:
    return job(id=name, output=result(text.encode()))


async def test_an_answer_that_comes_twice_reaches_no_other_call() -> None:
    steps = scripted(answer("job-1", "first"), answer("job-1", "first"), answer("job-3", "third"))
    async with endpoint(steps) as (backend, provider, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"first"
        with pytest.raises(BackendError, match="a job that was answered before") as caught:
            async with backend.send(a_call(), 0):
                raise AssertionError("it got the other call's answer")
        assert isinstance(caught.value, BackendBroke)
        assert caught.value.work is Work.MAYBE
        # What comes next on that connection is the answer that was due now.
        await until(lambda: provider.connections == 0)
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"third"


async def test_a_status_of_another_job_is_asked_again() -> None:
    steps = scripted(job("IN_PROGRESS", id="job-2"), answer("job-1", "another's"), answer("job-2", "its own"))
    async with endpoint(steps) as (backend, provider, _):
        async with backend.send(a_call(), 0) as reply:
            assert reply.body == b"its own"
        assert [request.target for request in provider.seen[1:]] == ["/v2/abc123/status/job-2"] * 2


async def test_jobs_without_a_name_are_not_mixed_up_with_each_other() -> None:
    async with endpoint(scripted(answer("", "first"), answer("", "second"))) as (backend, _, _):
        for text in (b"first", b"second"):
            async with backend.send(a_call(), 0) as reply:
                assert reply.body == text
