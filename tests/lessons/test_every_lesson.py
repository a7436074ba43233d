"""The table of lessons holds: each has tests, which are there and are collected."""

import importlib
import inspect

import pytest

from tests.lessons import table


def function(name: str) -> object:
    """The test function that the table means. Fails where there is none."""
    file, _, test = name.partition("::")
    folder, _, module = file.rpartition("/")
    path = f"tests.{folder}.test_{module}"
    found = getattr(importlib.import_module(path), f"test_{test}", None)
    assert inspect.isfunction(found), f"{path} has no test_{test}"
    assert found.__module__ == path or hasattr(found, "hypothesis"), f"test_{test} is not of {path}"
    return found


@pytest.mark.parametrize("name", table.LESSONS)
def test_a_lesson_has_tests_that_exist(name: str) -> None:
    lesson = table.LESSONS[name]
    assert lesson.says.endswith(".")
    assert lesson.tests
    assert len(set(lesson.tests)) == len(lesson.tests)
    for test in lesson.tests:
        function(test)


def test_no_lesson_is_lost() -> None:
    groups = (table.OVERFLOW, table.LOAD, table.COLD, table.STREAMS, table.MONEY, table.RUNNING)
    assert [len(group) for group in groups] == [8, 4, 2, 6, 3, 2]
    assert len(table.LESSONS) == sum(map(len, (*groups, table.PROOFS, table.TRAPS)))


def test_a_test_that_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="has no test_nothing"):
        function("pool/breaker::nothing")
