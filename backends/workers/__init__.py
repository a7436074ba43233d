"""What runs on the other side: the worker kit and a complete entry point per provider.

Nothing here is imported by the gateway. `kit.py` is one file of standard library, to be copied into a
worker's image; the files beside it are the entry points that the providers ask for.
"""
