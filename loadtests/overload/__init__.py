"""What the gateway does with more than it can do: several times its capacity, and what becomes of it."""
