"""The whole thing on one machine: a real Triton, serverless emulators, the gateway and a burst.

Stands beside the request path: it imports leaves, and drives everything else as processes over sockets.
"""
