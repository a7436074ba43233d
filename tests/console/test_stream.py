"""The console on the wire, without a browser."""

import asyncio
from pathlib import Path

import aiohttp

from gateway.console.feed import MOST_WATCHERS
from tests.console.support import SECRET, read_event, watched
from tests.workers_serving.live import Crowd, checked, serving

FILES = ("", "/page.css", "/page.js", "/draw.js", "/explain.js", "/page.svg")


async def test_the_first_event_has_the_past_and_more_follow_about_once_a_second() -> None:
    async with watched() as clients, clients.events() as answer:
        assert answer.content_type == "text/event-stream"
        kind, first = await read_event(answer)
        assert (kind, set(first["past"])) == ("hello", {"embed", "chat"})
        _, status_and_id = await clients.call(), await clients.call()
        began = asyncio.get_running_loop().time()
        for _ in range(3):
            kind, now = await read_event(answer)
            assert kind == "now"
        assert asyncio.get_running_loop().time() - began < 6
        assert now["total"]["requests"] == await clients.metric("overspill_requests_total") == 2
        assert status_and_id[1] in {each["request_id"] for each in now["decisions"]}
        text = str(now) + str(first)
        assert SECRET not in text
        assert "authorization" not in text


async def test_there_are_only_so_many_watchers_and_a_place_comes_free_again() -> None:
    async with watched() as clients:
        answers = [await clients.events() for _ in range(MOST_WATCHERS)]
        for answer in answers:
            assert answer.status == 200
            await read_event(answer)
        async with clients.events() as refused:
            assert refused.status == 503
            assert "close one" in (await refused.json())["error"]
        answers.pop().close()
        while True:
            async with clients.events() as answer:
                if answer.status == 200:
                    break
            await asyncio.sleep(0.1)
        for answer in answers:
            answer.close()


async def test_the_stream_ends_with_the_admin_port() -> None:
    async with watched() as clients:
        answer = await clients.events()
        await read_event(answer)
        began = asyncio.get_running_loop().time()
        await clients.gateway.admin.stop()
        assert asyncio.get_running_loop().time() - began < 1.0
        rest = await answer.content.read()
        assert b"event: hello" not in rest


async def test_every_file_is_served_with_a_strict_policy_and_from_nowhere_else() -> None:
    async with watched() as clients, aiohttp.ClientSession() as session:
        for name in FILES:
            async with session.get(f"{clients.admin}/console{name}") as answer:
                assert answer.status == 200
                policy = answer.headers["content-security-policy"]
                assert "default-src 'none'" in policy
                assert "unsafe" not in policy
                assert answer.headers["x-content-type-options"] == "nosniff"
                text = (await answer.text()).replace("http://www.w3.org/2000/svg", "")
                assert "//" not in text.replace("// ", "").replace(" //", "") or name.endswith(".js")
                assert "http:" not in text
                assert "https:" not in text
                assert "innerHTML" not in text
        page = await clients.get("/console")
        assert "<script>" not in page
        assert " style=" not in page
        assert not any(f" on{event}=" in page for event in ("click", "load", "error", "submit"))
        async with session.get(f"{clients.admin}/console/", allow_redirects=True) as answer:
            assert answer.url.path == "/console"
            assert answer.status == 200


async def test_an_explanation_says_what_the_call_came_to() -> None:
    async with watched() as clients, aiohttp.ClientSession() as session:
        _, request_id = await clients.call()
        async with session.post(clients.admin + "/admin/explain", json={"request_id": request_id}) as answer:
            ended = (await answer.json())["ended"]
        assert (ended["backend"], ended["outcome"], ended["status"]) == ("fleet", "ok", 200)
        assert ended["model"] == "minilm"
        assert ended["duration_s"] > 0.018  # timers of the loop count whole milliseconds


async def test_a_state_can_be_supposed_and_a_wrong_one_is_told() -> None:
    full = {"backends": {"fleet": {"in_flight": 2}, "runpod": {"warm": 1}}}
    async with watched() as clients, aiohttp.ClientSession() as session:

        async def suppose(state: object) -> tuple[int, dict[str, object]]:
            question = {"route": "embed", "state": state}
            async with session.post(clients.admin + "/admin/explain", json=question) as answer:
                return answer.status, await answer.json()

        status, found = await suppose(full)
        assert (status, found["supposed"]) == (200, True)
        assert found["action"] == {"do": "run", "backend": "runpod", "reason": "spill_full"}
        assert clients.gateway.capacities["fleet"].in_flight == 0
        status, found = await suppose({"backends": {"fleet": {"in_flight": 3}}})
        assert status == 400
        assert "does not fit" in str(found["error"])
        status, found = await suppose({"queue": [{"calls": 5000}]})
        assert status == 400
        assert "at most 1,000" in str(found["error"])


async def test_several_workers_are_shown_as_one(tmp_path: Path) -> None:
    async with checked(0.0) as (_, replica), serving(tmp_path, replica) as served:
        await Crowd(served.http).run(clients=8, calls=5)
        async with (
            aiohttp.ClientSession(read_bufsize=2**20) as session,
            session.get(f"http://127.0.0.1:{served.admin}/console/events") as answer,
        ):
            await read_event(answer)
            _, now = await read_event(answer)
            assert now["workers"] == 2
            assert now["total"]["requests"] == await served.metric("overspill_requests_total") == 40
            assert len(now["decisions"]) >= 40
            asked = {"request_id": now["decisions"][0]["request_id"]}
            async with session.post(
                f"http://127.0.0.1:{served.admin}/admin/explain", json=asked
            ) as explained:
                assert (await explained.json())["ended"]["backend"] == "fleet"
        assert await served.stop() == 0
