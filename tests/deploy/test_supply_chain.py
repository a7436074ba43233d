"""What is installed is pinned by hash, listed in the SBOM, and looked up in the advisories."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.deploy import audit
from tests.deploy.tools import ROOT, TOOLS, find, needs, run

LOCKS = [*sorted((ROOT / ".ci/lock").glob("*.txt")), *sorted((ROOT / "tests/deploy").glob("*.txt"))]


def pins(path: Path) -> list[audit.Pin]:
    return audit.pins(path.read_text())


def pin(name: str, version: str = "1.0", *, hashed: bool = True) -> str:
    return f"{name}=={version}" + (f" \\\n    --hash=sha256:{'0' * 64}\n" if hashed else "\n")


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_lock_pins_each_package_once_by_hash_and_none_of_an_attacker(path: Path) -> None:
    lock = pins(path)
    assert not audit.distrusted(lock)
    assert len({each.name for each in lock}) == len(lock)


def test_the_image_has_the_packages_of_the_run_time_lock_and_those_of_two_extras() -> None:
    run_time = {each[:2] for each in pins(ROOT / ".ci/lock/run.txt")}
    image = {each[:2] for each in pins(ROOT / ".ci/lock/image.txt")}
    tried = {each[:2] for each in pins(ROOT / ".ci/lock/dev.txt")}
    assert run_time < image <= tried, "the image holds only what the tests ran with"
    assert {"grpcio", "opentelemetry-exporter-otlp-proto-http", "opentelemetry-exporter-otlp-proto-grpc"} <= {
        name for name, _ in image
    }


@pytest.mark.parametrize("version", ["1.82.7", "1.82.8"])
def test_an_attackers_release_is_refused_without_asking_anybody(version: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(pin("litellm", version))
    said: list[str] = []
    assert audit.audit(tmp_path / "nothing", [lock], None, said.append) == audit.VULNERABLE
    assert said == [f"lock.txt: litellm {version} was published by an attacker"]


@pytest.mark.parametrize(
    "text", ["six>=1.0\n", "", pin("six", hashed=False), "six==1.0 --hash=sha256:beef\n", "-e .\n"]
)
def test_a_lock_that_pins_too_little_is_not_audited_but_refused(text: str, tmp_path: Path) -> None:
    lock = tmp_path / "lock.txt"
    lock.write_text(text)
    assert audit.audit(tmp_path / "nothing", [lock], None, lambda line: None) == audit.BROKEN


def test_what_the_report_leaves_out_is_not_taken_for_good() -> None:
    lock = audit.pins(pin("six") + pin("typing_extensions") + pin("yarl"))
    verdict = audit.judge(
        lock,
        {
            "dependencies": [
                {"name": "six", "skip_reason": "not found"},
                {"name": "typing-extensions", "version": "1.0", "vulns": []},
            ]
        },
    )
    assert verdict.unknown == ["six 1.0", "yarl 1.0"]
    assert verdict.code == audit.UNKNOWN


@contextmanager
def advisories(vulnerable: str | None) -> Iterator[str]:
    """An OSV service on this machine that knows of one vulnerable package, or of none."""

    class Answers(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
            vulns = []
            if asked["package"]["name"] == vulnerable:
                package = {"name": vulnerable, "ecosystem": "PyPI"}
                ranges = [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "2.0"}]}]
                vulns = [{"id": "PYSEC-0000-1", "affected": [{"package": package, "ranges": ranges}]}]
            body = json.dumps({"vulns": vulns} if vulns else {}).encode()
            self.send_response(200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/v1/query"
        finally:
            server.shutdown()
            thread.join()


@needs("pip-audit")
def test_vulnerable_unreachable_and_clean_end_with_different_exit_codes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = find("pip-audit")
    assert program is not None
    lock = tmp_path / "lock.txt"
    lock.write_text(pin("six") + pin("yarl"))
    tools = ["--tools", str(Path(program).parents[1])]
    with advisories(None) as url:
        assert audit.main([*tools, "--osv-url", url, str(lock)]) == audit.CLEAN
    assert "2 packages, none in the advisories" in capsys.readouterr().err
    with advisories("yarl") as url:
        assert audit.main([*tools, "--osv-url", url, str(lock)]) == audit.VULNERABLE
    assert "yarl 1.0: PYSEC-0000-1, fixed in 2.0" in capsys.readouterr().err
    assert audit.main([*tools, "--osv-url", url, str(lock)]) == audit.UNKNOWN
    assert "2 of 2 packages could not be looked up" in capsys.readouterr().err


@needs("cyclonedx-py")
@pytest.mark.parametrize(("lock", "name"), [("run.txt", "sbom.json"), ("image.txt", "sbom-image.json")])
def test_the_sbom_lists_exactly_the_packages_of_its_lock(lock: str, name: str, tmp_path: Path) -> None:
    [command] = [
        line
        for line in (ROOT / "Makefile").read_text().replace("\\\n", " ").splitlines()
        if f"build/{name}" in line and "cyclonedx_py" in line
    ]
    arguments = command.split("cyclonedx_py", 1)[1].replace(f"build/{name}", str(tmp_path / name)).split()
    run(
        str(TOOLS / "python") if (TOOLS / "python").exists() else sys.executable,
        *["-W", "ignore", "-m", "cyclonedx_py"],
        *arguments,
    )
    bom = json.loads((tmp_path / name).read_text())
    assert bom["bomFormat"] == "CycloneDX"
    assert bom["metadata"]["component"]["name"] == "overspill"
    listed = [(each["name"], each["version"]) for each in bom["components"]]
    assert sorted(listed) == sorted(each[:2] for each in pins(ROOT / ".ci/lock" / lock))
    locked = (ROOT / ".ci/lock" / lock).read_text()
    for each in bom["components"]:
        assert each["purl"] == f"pkg:pypi/{each['name']}@{each['version']}"
        hashes = {found["content"] for place in each["externalReferences"] for found in place["hashes"]}
        assert hashes
        assert all(found in locked for found in hashes)
