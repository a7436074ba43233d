"""How the machine is described."""

import re
import sys
import sysconfig

import pytest

from loadtests.bench.machine import Cores, describe, python_build, wakes

PLAIN = "'--prefix=/opt/python' '--enable-shared'"
DEBIAN = "'--enable-shared' '--prefix=/usr' '--with-computed-gotos' 'CFLAGS=-g -Wformat'"
TAKES_PROFILES = {"PGO_PROF_USE_FLAG": "-fprofile-use -fprofile-correction", "PROFILE_TASK": "-m test --pgo"}
"""What every build has whose compiler could do it, whether or not anybody asked."""


@pytest.mark.parametrize(
    ("variables", "base", "says"),
    [
        (
            {"CONFIG_ARGS": f"{PLAIN} '--enable-optimizations' '--with-lto'"}, "/usr/local",
            "local build in /usr/local, with profile-guided optimisation and link-time optimisation",
        ),
        (
            {"CONFIG_ARGS": f"{PLAIN} '--enable-optimizations'"}, "/opt/python",
            "local build in /opt/python, with profile-guided optimisation",
        ),
        (
            {"CONFIG_ARGS": f"{PLAIN} '--with-lto=no'", "PY_CFLAGS": "-O3 -flto=auto"}, "/opt/python",
            "local build in /opt/python, with link-time optimisation",
        ),
        (
            {"CONFIG_ARGS": DEBIAN, "PY_CORE_CFLAGS": "-O2 -fprofile-use"}, "/usr",
            "distribution build in /usr, with profile-guided optimisation",
        ),
        (
            {"CONFIG_ARGS": PLAIN, **TAKES_PROFILES}, "/opt/python",
            "local build in /opt/python, without --enable-optimizations and --with-lto",
        ),
        (
            {"CONFIG_ARGS": f"{PLAIN} '--with-lto=no'"}, "/opt/python",
            "local build in /opt/python, without --enable-optimizations and --with-lto",
        ),
        (
            {"CONFIG_ARGS": DEBIAN, **TAKES_PROFILES}, "/usr",
            "distribution build in /usr, which does not say whether it was optimised by a profile",
        ),
        ({}, "/opt/python", "local build in /opt/python, which does not say how it was configured"),
    ],
)  # fmt: skip
def test_how_python_was_built_is_told_and_not_guessed(
    variables: dict[str, object], base: str, says: str
) -> None:
    assert python_build(variables, base) == says


def test_the_description_has_this_python() -> None:
    says = describe(Cores.choose())["python"]
    assert says.startswith(f"{sys.version_info.major}.{sys.version_info.minor}.")
    assert says.endswith(python_build(sysconfig.get_config_vars(), sys.base_prefix))


def test_it_is_told_how_fast_sleepers_wake() -> None:
    number = r"(\d+\.\d+) ms"
    ways = re.findall(rf"(on one core|across the two) p50 {number} and p99 {number}", wakes(Cores.choose()))
    assert [way for way, _, _ in ways] == ["on one core", "across the two"][: 1 + (not Cores.choose().shared)]
    assert all(0 < float(p50) <= float(p99) for _, p50, p99 in ways)


def test_one_core_is_enough_where_it_is_asked() -> None:
    assert Cores.choose(one=True).shared
