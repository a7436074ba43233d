"""`serve --record` and `simulate --replay`, as users run them: what a gateway decided is decided again."""

import json
import stat
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner, Result

from gateway.cli import command
from gateway.demo.processes import Child, free_port

Lines = list[dict[str, Any]]

FILE = """\
version: 1
listen: {http: "127.0.0.1:HTTP", admin: "127.0.0.1:ADMIN"}
state: {path: "STATE", every: 200ms}
backends:
  fleet: {type: loopback, max_in_flight: 2, latency: 20ms, jitter: 60%}
  burst: {type: loopback_rented, max_in_flight: 4, latency: 20ms, boot: 60ms, idle_after: 200ms,
          price: {usd_per_second: 0.001}}
routes:
  one:
    match: {model: one}
    latency_budget: {within: 150ms, objective: 95%}
    timeout: 2s
    policy: POLICY
    tiers: [{backend: fleet, when_full: {queue: 20ms, then: spill}}, {backend: burst}]
  two:
    match: {model: two}
    policy: {type: pinned, header: x-backend}
    tiers: [{backend: burst}, {backend: fleet}]
"""
SECRET = "planted-secret"
BODY = b'{"inputs":[{"name":"planted-body","datatype":"FP32","shape":[1],"data":[1]}]}'


def written(path: Path, policy: str = "cheapest_in_budget", *, http: int = 8000, admin: int = 8002) -> Path:
    text = FILE.replace("HTTP", str(http)).replace("ADMIN", str(admin)).replace("POLICY", policy)
    path.write_text(text.replace("STATE", str(path.with_suffix(".state"))))
    return path


def ask(port: int, number: int) -> None:
    model, backend = ("two", (SECRET, "fleet")[number % 2]) if number % 5 == 0 else ("one", "")
    headers = {"x-backend": backend, "authorization": SECRET, "content-type": "application/json"}
    url = f"http://127.0.0.1:{port}/v2/models/{model}/infer?{SECRET}"
    with suppress(OSError), urllib.request.urlopen(urllib.request.Request(url, BODY, headers)) as answer:
        answer.read()


def serve_and_record(config: Path, recording: Path, *, calls: int) -> None:
    http, admin = free_port(), free_port()
    written(config, http=http, admin=admin)
    line = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config), "--record", str(recording)]
    with Child("gateway", line) as child:
        child.wait_answer(f"http://127.0.0.1:{admin}/readyz", 30)
        with ThreadPoolExecutor(12) as clients:
            list(clients.map(lambda number: ask(http, number), range(calls)))
        assert child.stop() == 0


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The file a gateway ran with, and its recording."""
    folder = tmp_path_factory.mktemp("recorded")
    config, recording = folder / "overspill.yaml", folder / "run.jsonl"
    serve_and_record(config, recording, calls=20)  # the second run begins with what this one learned
    serve_and_record(config, recording, calls=150)
    return config, recording


def simulate(*arguments: object) -> Result:
    return CliRunner().invoke(command, ["simulate", *map(str, arguments)])


def replayed(config: Path, recording: Path, *more: str) -> Result:
    return simulate("--replay", recording, "-c", config, *more)


def read(path: Path) -> Lines:
    return [json.loads(line) for line in path.read_text().splitlines()]


def save(path: Path, lines: Lines) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_recorded_gateway_decides_the_same_when_it_is_simulated(recorded: tuple[Path, Path]) -> None:
    config, recording = recorded
    done = replayed(config, recording)
    assert done.exit_code == 0, done.output
    decisions = sum("decision" in line for line in read(recording))
    assert decisions > 150
    assert done.stdout == f"{decisions:,} decisions compared: {decisions:,} agree, 0 differ\n"
    figures = json.loads(replayed(config, recording, "--json").stdout)
    assert figures == {
        "compared": decisions, "agree": decisions, "differences": [], "stopped": None, "not_compared": 0,
    }  # fmt: skip
    seen = {line.get("event") for line in read(recording)}
    assert {"arrive", "release", "learned", "refresh"} <= seen
    learned = next(line for line in read(recording) if line.get("event") == "learned")
    assert any(row["known"] for rows in learned["routes"].values() for pair in rows for row in pair if row)


def test_a_recording_holds_no_body_and_nothing_that_a_client_said(recorded: tuple[Path, Path]) -> None:
    _, recording = recorded
    text = recording.read_text()
    assert "planted" not in text
    asked = {value for line in read(recording) for value in line.get("headers", {}).values()}
    assert asked == {"", "fleet"}, "whether a backend was named, and which"
    assert stat.S_IMODE(recording.stat().st_mode) == 0o600


def decision(lines: Lines) -> int:
    """Where a call of route one went to the fleet at once."""
    wanted = {"run": "fleet", "route": "one", "decision": "arrive"}
    return next(place for place, line in enumerate(lines) if wanted.items() <= line.items())


def test_one_changed_decision_is_the_one_difference(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    config, recording = recorded
    lines = read(recording)
    place = decision(lines)
    at = lines[place - 1]["at"] - next(line["at"] for line in lines if "event" in line)
    call = lines[place]["call"]
    lines[place] |= {"run": "burst", "reason": "spill_full"}
    done = replayed(config, save(tmp_path / "changed.jsonl", lines))
    assert done.exit_code == 1
    head, difference = done.stdout.splitlines()
    assert head.endswith(" agree, 1 differ")
    assert difference == (
        f"{at:.6f} s, call {call}, route one, arrive: live ran it on burst (spill_full); "
        "simulated ran it on fleet (warm)"
    )
    figures = json.loads(replayed(config, tmp_path / "changed.jsonl", "--json").stdout)
    (found,) = figures["differences"]
    assert (found["call"], found["moment"], found["live"]["run"]) == (call, "arrive", "burst")
    assert found["simulated"]["run"] == "fleet"
    assert found["at_s"] == pytest.approx(at)


def test_a_decision_that_was_left_out_is_a_difference(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    config, recording = recorded
    lines = read(recording)
    place = decision(lines)
    del lines[place]
    done = replayed(config, save(tmp_path / "less.jsonl", lines))
    assert done.exit_code == 1
    assert "live decided nothing; simulated ran it on fleet (warm)" in done.stdout


def test_another_policy_decides_otherwise_and_the_rest_is_counted(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    _, recording = recorded
    done = replayed(written(tmp_path / "other.yaml", "serverless_only"), recording, "--json")
    assert done.exit_code == 1
    figures = json.loads(done.stdout)
    assert figures["differences"]
    assert figures["agree"] == figures["compared"] - len(figures["differences"])
    decisions = sum("decision" in line for line in read(recording))
    assert (figures["stopped"] is not None) == (figures["not_compared"] > 0)
    assert figures["compared"] + figures["not_compared"] >= decisions
    text = replayed(tmp_path / "other.yaml", recording).stdout
    assert figures["stopped"] is None or f"stopped early: {figures['stopped']}; " in text


def test_an_event_that_is_missing_ends_the_replay(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    config, recording = recorded
    lines = read(recording)
    place = next(place for place, line in enumerate(lines) if line.get("event") == "arrive")
    call = lines[place]["call"]
    left = [
        line for line in lines[:place] + lines[place + 1 :] if line.get("call") != call or "event" in line
    ]
    done = replayed(config, save(tmp_path / "less.jsonl", left))
    assert done.exit_code == 1


def test_what_a_replay_cannot_do_ends_it_there(recorded: tuple[Path, Path], tmp_path: Path) -> None:
    config, recording = recorded
    lines = read(recording)
    place = len(lines) // 2
    while "decision" in lines[place]:
        place += 1
    at = next(line["at"] for line in lines[place:] if "event" in line)
    lines.insert(place, {"at": at, "event": "beyond", "what": "a slot taken beside the queue (hedge)"})
    done = replayed(config, save(tmp_path / "hedged.jsonl", lines))
    left = sum("decision" in line for line in lines[place:])
    assert done.exit_code == 1
    assert done.stdout.splitlines()[-1] == (
        "stopped early: the recording goes on with a slot taken beside the queue (hedge), which a replay cannot "
        f"do; {left} decisions after that were not compared"
    )


# -- nonsense ----------------------------------------------------------------------------------------

HEAD = '{"recording":1,"seed":0}\n'
BACKEND = (
    '{"setup":"backend","name":"fleet","owned":true,"replicas":1,"slots":2,"can_open":false,"rent":null,'
    '"carries_all":true,"fixed":true}\n'
)


@pytest.mark.parametrize(
    ("text", "line", "what"),
    [
        ("", 1, "the file is empty"),
        ("\n", 1, "not a JSON object"),
        ("[]\n", 1, "not a JSON object"),
        ("t_s\n0\n", 1, "not a JSON object"),
        ("\xff\xfe\n", 1, "not a JSON object"),
        ("[" * 100_000, 1, "not a JSON object"),
        ('{"event":"arrive"}\n', 1, "not a recording of version 1"),
        ('{"recording":2,"seed":0}\n', 1, "not a recording of version 1"),
        ('{"recording":1,"seed":"x"}\n', 1, "its seed is not a whole number"),
        (HEAD + "nonsense\n", 2, "not a JSON object"),
        (HEAD + '{"at":NaN,"event":"ring","timer":1}\n', 2, "not a JSON object"),
        (HEAD + "{}\n", 2, "neither setup, event, decision"),
        (HEAD + '{"at":1,"event":"party"}\n', 2, "party"),
        (HEAD + '{"at":1,"event":"ring"}\n', 2, "missing required field `timer`"),
        (HEAD + '{"at":"soon","event":"ring","timer":1}\n', 2, "`$.at`"),
        (HEAD + BACKEND + '{"decision":"arrive"}\n', 3, "missing required field `route`"),
        (HEAD + BACKEND.replace('"slots":2', '"slots":0'), 2, "`$.slots`"),
        (HEAD + BACKEND.replace('"replicas":1', '"replicas":1000000000'), 2, "`$.replicas`"),
        (HEAD + BACKEND.replace('"fixed":true', '"fixed":false'), 2, "max_in_flight: auto"),
        (HEAD + BACKEND + '{"at":1,"event":"leave","route":"one","call":7}\n', 0, ""),
        (HEAD + BACKEND + '{"at":1,"event":"open","route":"x","backend":"y","count":1,"kind":"z"}\n', 3, "'x'"),
        (HEAD + BACKEND + '{"at":1,"event":"ready","backend":"fleet","replica":9,"answer":true}\n', 3, "sense"),
    ],
)  # fmt: skip
def test_a_file_that_is_no_recording_is_refused_with_the_line(
    tmp_path: Path, text: str, line: int, what: str
) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes(text.encode("latin-1"))
    done = replayed(written(tmp_path / "o.yaml"), path)
    if line == 0:  # it is well-formed, only that nobody of that number ever came
        assert (done.exit_code, done.stderr) == (1, "")
        assert "stopped early: call 7 has not come" in done.stdout
        return
    assert (done.exit_code, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert said.startswith(f"overspill simulate: {path}:{line}: ")
    assert what in said


def test_a_route_that_the_file_does_not_have_or_that_has_a_budget(
    recorded: tuple[Path, Path], tmp_path: Path
) -> None:
    config, recording = recorded
    lines = read(recording)
    place = next(place for place, line in enumerate(lines) if line.get("setup") == "route")
    lines[place]["tiers"][0]["budgeted"] = True
    done = replayed(config, save(tmp_path / "x.jsonl", lines))
    assert done.exit_code == 2
    assert f"x.jsonl:{place + 1}: route one has a spill budget" in done.stderr
    lines[place] |= {"name": "three"}
    done = replayed(config, save(tmp_path / "x.jsonl", lines))
    assert done.exit_code == 2
    assert f"x.jsonl:{place + 1}: the recording has a route three" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "give --trace T, or --replay FILE"),
        (["--replay", "x.jsonl"], "give it with -c FILE"),
        (["--replay", "x.jsonl", "-c", "CONFIG", "--trace", "poisson:1:20"], "with -c and --json only"),
        (["--replay", "x.jsonl", "-c", "CONFIG", "--budget", "1s"], "with -c and --json only"),
        (["--replay", "x.jsonl", "-c", "CONFIG"], "x.jsonl"),
    ],
)
def test_what_is_asked_wrongly_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], what: str
) -> None:
    monkeypatch.chdir(tmp_path)
    config = str(written(tmp_path / "o.yaml"))
    done = simulate(*[config if each == "CONFIG" else each for each in arguments])
    assert (done.exit_code, done.stdout) == (2, "")
    (said,) = done.stderr.splitlines()
    assert what in said


def test_a_place_that_cannot_be_written_is_known_before_anything_is_served(tmp_path: Path) -> None:
    config = written(tmp_path / "o.yaml", http=free_port(), admin=free_port())
    nowhere = str(tmp_path / "nowhere" / "run.jsonl")
    line = [sys.executable, "-m", "gateway.cli", "serve", "-c", str(config), "--record", nowhere]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "cannot start: " in done.stderr
    assert nowhere in done.stderr


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-2, 3), st.just(10**12), st.just(-1.5), st.text("ab", max_size=2),
    st.just([]), st.just({}), st.just([[1]]), st.sampled_from(["fleet", "burst", "one", "two", "cold"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_whatever_is_in_a_line_the_answer_is_a_verdict_or_one_line(
    recorded: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    config, recording = recorded
    lines = read(recording)[:80]
    for _ in range(data.draw(st.integers(1, 3))):
        where: Any = lines[data.draw(st.integers(0, len(lines) - 1))]
        key: Any = data.draw(st.sampled_from(list(where)))
        while isinstance(where[key], dict | list) and where[key] and data.draw(st.booleans()):
            where = where[key]
            key = data.draw(st.sampled_from(list(where) if isinstance(where, dict) else range(len(where))))
        if data.draw(st.booleans()) or isinstance(where, list):
            where[key] = data.draw(VALUES)
        elif len(where) > 1:
            del where[key]
    path = save(tmp_path_factory.mktemp("fuzz") / "x.jsonl", lines)
    done = replayed(config, path)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if done.exit_code == 2:
        assert done.stdout == ""
        (said,) = done.stderr.splitlines()
        assert said.startswith(f"overspill simulate: {path}:")
    else:
        assert done.exit_code in {0, 1}
        assert done.stderr == ""
