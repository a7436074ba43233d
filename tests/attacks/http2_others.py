"""Where grpc's own server does something else in kind, and why the corpus stays with what it says.

That it passes over much that RFC 9113 has a server refuse is not listed.
"""

DIFFERENT: dict[tuple[str, str], tuple[str, ...]] = {
    # It ends the connection, or cannot read what it may; here a call has its own status.
    ("call", "connection"): (
        "a whole call, padded and with a priority",
        "large metadata",
    ),
    # It resets the stream; here a status says why.
    ("call", "stream"): ("another method",),
    # It serves requests that are malformed (RFC 9113, 8.1.1). Their fields go on from here to servers that read
    # them as something else.
    ("stream", "call"): (
        ":method twice",
        ":path twice",
        ":scheme twice",
        "DATA after the end",
        "HEADERS after the end",
        "a name of high bytes",
        "a name with CRLF",
        "a name with a colon inside",
        "a name with a space",
        "a pseudo-field after others",
        "a pseudo-field of answers",
        "a pseudo-field of nobody",
        "a section read although its stream is refused",
        "an empty name",
        "an empty path",
        "b' a' as a value",
        "b'\\ta' as a value",
        "b'a ' as a value",
        "b'a\\nb' as a value",
        "b'a\\r\\nb: c' as a value",
        "b'a\\rb' as a value",
        "b'a\\t' as a value",
        "b'a\\x00b' as a value",
        "capitals in a name",
        "connection, of HTTP/1.1",
        "keep-alive, of HTTP/1.1",
        "proxy-connection, of HTTP/1.1",
        "te that is not trailers",
        "trailers with a pseudo-field",
        "transfer-encoding, of HTTP/1.1",
        "upgrade, of HTTP/1.1",
    ),
    # It ends the connection with all other calls, where one stream is at fault.
    ("stream", "connection"): (
        "HEADERS in the middle that do not end it",
        "a window that grows by nothing",
    ),
}
"""What it is here and there: names of the attacks."""
