"""Looks every locked package up in the advisories: `make audit`.

Exit codes: 0 all of them were looked up and none is vulnerable; 1 one is vulnerable, or known to be an attacker's;
2 a lock cannot be trusted or read; 3 the advisories could not be reached, so that nothing is known of some.
`pip-audit` alone ends with 0 where it could look up nothing, and with 1 where it found something or broke.
Needs nothing but the standard library.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

LOCKS = Path(__file__).parents[2] / ".ci/lock"
CLEAN, VULNERABLE, BROKEN, UNKNOWN = 0, 1, 2, 3
ATTACKERS = {("litellm", "1.82.7"), ("litellm", "1.82.8")}
"""Releases that steal credentials. They are refused without asking anybody."""

_REQUIREMENT = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)")
_HASH = re.compile(r"--hash=sha256:[0-9a-f]{64}(?=\s|$)")


class Pin(NamedTuple):
    """One package of a lock."""

    name: str
    version: str
    hashes: int


def pins(text: str) -> list[Pin]:
    """The packages of a lock, names normalised. ValueError for a line that pins nothing."""
    found = []
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _REQUIREMENT.match(line)
        if match is None:
            raise ValueError(f"{line[:60]!r} pins no version; write NAME==VERSION --hash=sha256:…")
        name = re.sub(r"[-_.]+", "-", match[1]).lower()
        found.append(Pin(name, match[2], len(_HASH.findall(line))))
    if not found:
        raise ValueError("holds no package")
    return found


def distrusted(lock: Iterable[Pin]) -> list[str]:
    """What is wrong with a lock, before anybody is asked."""
    wrong = [f"{pin.name} {pin.version} was published by an attacker" for pin in lock if pin[:2] in ATTACKERS]
    return wrong + [f"{pin.name} {pin.version} has no hash" for pin in lock if not pin.hashes]


class Verdict(NamedTuple):
    """What the advisories say of one lock."""

    vulnerable: list[str]
    unknown: list[str]

    @property
    def code(self) -> int:
        """As an exit code."""
        return VULNERABLE if self.vulnerable else UNKNOWN if self.unknown else CLEAN


def judge(lock: Sequence[Pin], report: Mapping[str, Any]) -> Verdict:
    """pip-audit's report, held against what was to be looked up: what it left out is not known to be good."""
    vulnerable, audited = [], set()
    for each in report.get("dependencies", ()):
        if "vulns" not in each:
            continue
        audited.add((re.sub(r"[-_.]+", "-", each["name"]).lower(), each["version"]))
        for found in each["vulns"]:
            fixed = ", ".join(found.get("fix_versions", ())) or "no release"
            vulnerable.append(f"{each['name']} {each['version']}: {found['id']}, fixed in {fixed}")
    return Verdict(vulnerable, [f"{pin.name} {pin.version}" for pin in lock if pin[:2] not in audited])


def look_up(program: Path, lock: Path, osv_url: str | None) -> tuple[Mapping[str, Any], str]:
    """pip-audit's report and why it left something out; an empty report where it could not say anything."""
    command: list[str | Path] = [program, "--disable-pip", "--require-hashes", "-r", lock, "-f", "json"]
    command += ["--progress-spinner", "off", "--desc", "off", "--timeout", "15"]
    if osv_url is not None:
        command += ["-s", "osv", "--osv-url", osv_url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        said = done.stderr.strip().splitlines()
        return {}, said[-1] if said else f"pip-audit ended with {done.returncode}"
    skipped = [each["skip_reason"] for each in report["dependencies"] if "skip_reason" in each]
    return report, skipped[0] if skipped else ""


def audit(program: Path, locks: Sequence[Path], osv_url: str | None, say: Any) -> int:
    """Every lock in turn, until the advisories cannot be reached. The gravest exit code."""
    codes = {CLEAN}
    for path in locks:
        try:
            lock = pins(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            say(f"{path.name}: {error}")
            return BROKEN
        if wrong := distrusted(lock):
            for each in wrong:
                say(f"{path.name}: {each}")
            return VULNERABLE if any("attacker" in each for each in wrong) else BROKEN
        report, complaint = look_up(program, path, osv_url)
        verdict = judge(lock, report)
        for each in verdict.vulnerable:
            say(f"{path.name}: {each}")
        codes.add(verdict.code)
        if verdict.unknown:
            say(
                f"{path.name}: {len(verdict.unknown)} of {len(lock)} packages could not be looked up, so nothing is "
                f"known of them: {complaint or verdict.unknown[0]}"
            )
            break
        if verdict.code == CLEAN:
            say(f"{path.name}: {len(lock)} packages, none in the advisories")
    return VULNERABLE if VULNERABLE in codes else max(codes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code as above."""
    parser = argparse.ArgumentParser(prog="python -m tests.deploy.audit", description="Audit the locks.")
    parser.add_argument("--tools", type=Path, required=True, help="where `make deploy-tools` put pip-audit")
    parser.add_argument("--osv-url", help="ask this OSV service in place of the package index")
    parser.add_argument("locks", type=Path, nargs="*", help="locks; default: all of .ci/lock")
    given = parser.parse_args(arguments)
    program = given.tools / "bin/pip-audit"
    if not program.is_file():
        sys.stderr.write(f"no {program}; run make deploy-tools\n")
        return BROKEN
    # The smallest first: where nobody answers, that is known soon.
    locks = given.locks or sorted(LOCKS.glob("*.txt"), key=lambda path: path.stat().st_size)
    return audit(program, locks, given.osv_url, lambda line: sys.stderr.write(line + "\n"))


if __name__ == "__main__":
    sys.exit(main())
