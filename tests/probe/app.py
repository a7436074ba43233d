"""The app that the emulators serve here: one model that doubles."""

from backends.emulators.kserve_app import KServeApp
from tests.emulators.apps import Double

app = KServeApp([Double()])
