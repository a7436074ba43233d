"""HTTP/2 as gRPC uses it (RFC 9113): frames, field sections, windows and streams, for either side.

Knows the wire and nothing else: no route, no backend, no gRPC status. What a stream carries is the business
of who makes a class of its own of `Stream`; a connection is an `asyncio.Protocol` that reads no clock.

    frames.py      what goes over the wire, and the errors that end a connection
    fields.py      field sections (HPACK): read with the help of what was read before, written without a table
    limits.py      what one side lets the other do
    messages.py    gRPC's messages in the bytes of a stream
    stream.py      one stream: what waits for a window, and what was read
    connection.py  all streams of one connection
"""
