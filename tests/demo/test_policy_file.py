"""The demo's policy file is one that `overspill check` takes, and says what the plan says."""

from pathlib import Path

import pytest

from gateway.app import registries
from gateway.config.load import load
from gateway.demo.plan import BACKENDS, FLEET, RENTED, ROUTE, Plan
from gateway.demo.policy_file import SECRETS, policy_file


def test_the_file_is_valid_and_says_what_the_plan_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, secret in SECRETS.items():
        monkeypatch.setenv(name, secret)
    plan = Plan(seconds=20)
    emulators = {each.name: "http://127.0.0.1:9" for each in RENTED}
    file = tmp_path / "overspill.yaml"
    file.write_text(
        policy_file(
            plan,
            http=18000,
            admin=18002,
            triton="http://127.0.0.1:8",
            emulators=emulators,
            access_log=str(tmp_path / "access.jsonl"),
        )
    )

    loaded = load(file, *registries())

    assert loaded.warnings == []
    settings = loaded.settings
    assert [tier.backend for tier in settings.routes[ROUTE].tiers] == list(BACKENDS)
    assert settings.backends[FLEET].max_in_flight == plan.slots
    budget = settings.routes[ROUTE].latency_budget
    assert budget is not None
    assert (budget.within, budget.objective) == (plan.within, plan.objective)
    for each in RENTED:
        assert settings.backends[each.name].max_in_flight == each.max_in_flight
