"""Overspill, the gateway. One request, top to bottom:

    1 listener.py    own the sockets, HTTP/1.1 framing, keep-alive, limits, drain
    2 protocols/     wire <-> Call; errors <-> wire; pure
    3 routes.py      which route serves this model
    4 admission.py   a place inside the limits, held until the last byte
    5 pool.py        a slot to run on, chosen by the route's policy
    6 dispatch.py    carry out the attempt; try again only what is safe
    7 relay.py       copy the answer with back-pressure
    8 ledger.py      exactly one record per call

`pipeline.py` is steps 2 to 8 on one page. `app.py` builds every object once.
"""

__version__ = "0.1.0"
