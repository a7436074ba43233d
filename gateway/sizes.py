"""How much a call asks for, as one number: the features that its route declares, each times its weight.

    body_bytes        bytes of the request's body
    max_tokens        the most tokens that it wants generated
    tensor_elements   elements of its input tensors, as the shapes in a KServe body say

The number only sorts calls into classes of size, so its unit is the route's own. Nothing is decoded: shapes
are looked for in the first bytes. It knows calls and never a backend.
"""

import re
from collections.abc import Callable, Mapping
from math import prod

from gateway.vocab import Call

SEARCHED_BYTES = 4096
"""Part of a body in which shapes are looked for: tensors come first, data after them."""
_SHAPE = re.compile(rb'"shape"\s{0,4}:\s{0,4}\[([\d,\s]{1,100})\]')


def body_bytes(call: Call) -> float | None:
    """None for a body whose length was not declared and whose end has not come."""
    return call.body.length


def max_tokens(call: Call) -> float | None:
    """None where the call does not say."""
    return call.max_tokens


def tensor_elements(call: Call) -> float | None:
    """None where no shape is found."""
    body = call.body.whole()
    if body is None:
        return None
    shapes = _SHAPE.findall(body[:SEARCHED_BYTES])
    if not shapes:
        return None
    return float(sum(prod(int(side) for side in shape.split(b",") if side.strip()) for shape in shapes))


FEATURES: Mapping[str, Callable[[Call], float | None]] = {
    "body_bytes": body_bytes,
    "max_tokens": max_tokens,
    "tensor_elements": tensor_elements,
}


def measure(weights: Mapping[str, float]) -> Callable[[Call], float | None] | None:
    """What gives the size of a call; None where no feature is declared. A call of which no declared feature
    is known has no size.
    """
    features = [(FEATURES[name], weight) for name, weight in weights.items() if weight]
    if not features:
        return None

    def size(call: Call) -> float | None:
        known = [value * weight for feature, weight in features if (value := feature(call)) is not None]
        return sum(known) if known else None

    return size
