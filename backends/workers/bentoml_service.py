"""BentoML service: the app below `/` beside BentoML's own paths, with BentoML's limits on traffic.

    service.py (this file)  bentofile.yaml (bentoml/bentofile.yaml)  kit.py  mymodel.py
    bentoml serve service:service

BentoML carries HTTP as it is, so only the boot's fields are added. OVERSPILL_CONCURRENCY is the most calls at
once; more get BentoML's own 429, which the gateway takes for a full service.
"""

import importlib
import importlib.util
import os
from typing import Any

try:
    from backends.workers import kit
except ImportError:  # in a bento the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]


def define() -> Any:
    """The service. In a function, so that this file can be read and tested without BentoML."""
    bentoml = importlib.import_module("bentoml")
    traffic: dict[str, object] = {"timeout": 600}
    if os.environ.get("OVERSPILL_CONCURRENCY"):
        traffic["max_concurrency"] = int(os.environ["OVERSPILL_CONCURRENCY"])
    worker = kit.Worker(kit.from_environment(), kit.Boot())

    @bentoml.service(name="overspill_worker", traffic=traffic)
    @bentoml.asgi_app(worker.application, path="/")
    class OverspillWorker:
        def __init__(self) -> None:
            worker.wait_until_up()

    return OverspillWorker


service = define() if importlib.util.find_spec("bentoml") is not None else None
"""What `bentoml serve` names; None where BentoML is not installed."""
