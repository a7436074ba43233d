"""Whose calls may use how much: requests, tokens, places and dollars of each tenant, and its priority."""
