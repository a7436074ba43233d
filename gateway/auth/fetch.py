"""One small document from an address of the configuration: bounded in time and size, and no redirect.

Knows HTTP and nothing of what it fetches. The address comes from the file, never from a request.
"""

from collections.abc import Callable

import aiohttp
from aiohttp.abc import AbstractResolver

from backends.egress import Guarded

LONGEST_S = 5.0
MOST_BYTES = 256 * 1024


class NotFetched(Exception):
    """It could not be had; says why, in words that hold nothing of the answer."""


async def fetch(url: str, *, resolver: Callable[[], AbstractResolver] = aiohttp.DefaultResolver) -> bytes:
    """The document. A name that leads to a metadata service is not followed there. Raises NotFetched."""
    timeout = aiohttp.ClientTimeout(total=LONGEST_S)
    fields = {"accept": "application/json", "accept-encoding": "identity"}
    try:
        connector = aiohttp.TCPConnector(resolver=Guarded(resolver()), force_close=True)
        async with (
            connector,
            aiohttp.request(
                "GET", url, headers=fields, timeout=timeout, allow_redirects=False, connector=connector
            ) as response,
        ):
            if response.status != 200:
                raise NotFetched(f"answered with status {response.status}")
            if response.headers.get("content-encoding", "identity") != "identity":
                raise NotFetched("answered with a compressed body, which was not asked for")
            parts, size = [], 0
            async for part in response.content.iter_any():
                size += len(part)
                if size > MOST_BYTES:
                    raise NotFetched(f"answered with more than {MOST_BYTES:,} bytes")
                parts.append(part)
            return b"".join(parts)
    except TimeoutError:
        raise NotFetched(f"did not answer within {LONGEST_S:g} s") from None
    except (aiohttp.ClientError, OSError, ValueError) as error:
        raise NotFetched(f"could not be asked ({type(error).__name__})") from None
