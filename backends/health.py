"""A question over HTTP whose answer says whether an endpoint can serve.

Knows the sibling client; it must never know whose endpoint it is, or what an answer other than 200 means.
"""

import asyncio
from typing import Annotated

from pydantic import Field

from backends.client import HttpClient, join_url
from gateway.errors import BackendError, NoDescriptor
from gateway.options import Duration, Options
from gateway.vocab import Headers

UrlPath = Annotated[str, Field(pattern=r"^/[A-Za-z0-9\-._~!$&'()*+,;=:@%/{}]*$")]
"""A path, already percent-encoded."""


class Health(Options):
    """A question whose answer says whether the endpoint can serve. It is asked again and again."""

    path: UrlPath
    """Where it is asked, below `url`. Only 200 means that it can. Never one that makes an instance boot."""
    timeout: Duration = 2.0
    """Longest wait for the answer."""


async def healthy(client: HttpClient, url: str, health: Health, headers: Headers) -> bool | None:
    """Whether it says now that it can serve; None where it could not be asked. Raises nothing."""
    try:
        async with asyncio.timeout(health.timeout):
            address = join_url(url, health.path.encode("ascii"))
            answer = await client.exchange("GET", address, headers=headers, limit=2**20)
    except NoDescriptor:
        return None
    except (BackendError, TimeoutError):
        return False
    return answer.status == 200
