"""Replicate: a predictor of cog that turns the envelope of a prediction back into the HTTP call it was.

    cog.yaml (cog/cog.yaml)  cog_predictor.py  kit.py  mymodel.py

The gateway's entry says `type: replicate` and `envelope: event` (the default). The event is JSON text in the
input `event`, and the result is JSON text too: a predictor's inputs and outputs have fixed types. Answers
are returned whole. The app is named in `cog.yaml`'s `environment`.

Wire facts: cog's documentation, "Prediction interface" and "cog.yaml".
"""

import json

try:
    from backends.workers import kit
except ImportError:  # in an image the kit lies beside this file
    import kit  # type: ignore[import-not-found, no-redef]

try:
    from cog import BasePredictor  # type: ignore[import-not-found]
except ImportError:  # cog is in the images that it builds, and nowhere else
    BasePredictor = object


class Predictor(BasePredictor):  # type: ignore[misc]
    """One worker."""

    def setup(self) -> None:
        """Make the app, and start its server if it is one: Replicate counts this as start-up."""
        self.worker = kit.Worker(kit.from_environment(), kit.Boot())
        self.worker.wait_until_up()

    def predict(self, event: str) -> str:
        """One call. What is no event makes the prediction fail, and says so."""
        return json.dumps(self.worker.handle(json.loads(event)))
