"""Starts a program as the image runs it: another user, no capabilities, nothing to write to but /tmp.

In a mount namespace of its own, where this machine permits one; loopback is shared, so that it can be called.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ENTER = r"""
set -e
mount -t tmpfs -o size=64m,mode=1777 tmpfs /tmp
if [ -n "$CLOSED" ]; then
  mkdir /tmp/base && mount --bind "$BASE" /tmp/base
  mount -t tmpfs -o mode=755 tmpfs "$CLOSED"
  mkdir -p "$BASE" && mount --move /tmp/base "$BASE" && rmdir /tmp/base
fi
mount -o remount,ro,bind /
mkdir /tmp/etc && printf '%s' "$POLICY_FILE" > /tmp/etc/overspill.yaml && chmod 755 /tmp/etc
chmod 644 /tmp/etc/overspill.yaml
unset POLICY_FILE CLOSED BASE HOME
cd /tmp
exec setpriv --reuid 65532 --regid 65532 --clear-groups --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
POLICY_FILE = "/tmp/etc/overspill.yaml"
"""Where it finds the policy file, which it cannot write."""


def why_not() -> str | None:
    """What is missing on this machine."""
    if os.geteuid() != 0:
        return "needs root, to make a mount namespace"
    if shutil.which("unshare") is None or shutil.which("setpriv") is None:
        return "needs unshare and setpriv"
    if Path(__file__).is_relative_to("/tmp"):
        return "this checkout lies in /tmp, which is another folder in there"
    tried = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "mount", "--bind", "/", "/"],
        capture_output=True,
        check=False,
    )
    return None if tried.returncode == 0 else "mount namespaces are not permitted here"


def _closed(base: Path) -> str:
    """The folder above the interpreter that others may not enter, if there is one."""
    for folder in reversed(base.parents):
        if not folder.stat().st_mode & 0o001:
            return str(folder)
    return ""


def start(command: list[str], *, policy_file: str, **environment: str) -> "subprocess.Popen[bytes]":
    """The program, with the file at `POLICY_FILE` and nothing of this environment but PATH."""
    base = Path(sys.base_prefix).resolve()
    given = {"PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    given |= {"BASE": str(base), "CLOSED": _closed(base), "POLICY_FILE": policy_file, **environment}
    return subprocess.Popen(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", ENTER, "sh", *command],
        env=given,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
