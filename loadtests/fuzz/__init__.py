"""Bytes that nobody meant well: each part that reads from outside, fed without a socket."""
