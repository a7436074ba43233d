"""Faults in what stands behind, beside and below a running gateway, and what becomes of the calls."""
