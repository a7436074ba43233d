"""The policies that ship. Importing this package registers them; one line per policy."""

from policies import spill_when_full as spill_when_full
from policies import weighted as weighted
from policies.base import policies

__all__ = ["policies"]
