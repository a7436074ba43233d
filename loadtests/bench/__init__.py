"""What one request costs in front of a warm fleet: Overspill beside other proxies doing the same work.

Run it with `python -m loadtests.bench`. It starts processes on 127.0.0.1, never imports the gateway, and
knows the programs under test only by their command line, their config file and their place in /proc.
"""
