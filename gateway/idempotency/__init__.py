"""Calls with an `Idempotency-Key`: carried out once, and answered as often as they are repeated."""
