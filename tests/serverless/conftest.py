"""The secret that every backend's example refers to."""

import pytest

from tests.support.provider import SECRET


@pytest.fixture(autouse=True)
def _secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OVERSPILL_EXAMPLE_SECRET", SECRET)
