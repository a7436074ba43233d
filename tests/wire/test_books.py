"""The gateway's answers, cold starts and log lines are those that the emulated providers count, failures on.

The long form, with every endpoint and 10,000 requests, is `python -m loadtests.books`. So few requests as here
leave chance too much room in the money to be within one per cent: a failure whose cost no provider told weighs
more than that.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from loadtests.books import row, whole
from loadtests.books_run import run

ENDPOINTS = ("runpod_lb", "modal", "aws_lambda", "aws_lambda-pinged", "aws_lambda-streamed", "aws_lambda_url")


MOST_DOUBTFUL = 2
"""Starts that were told of to a connection which ended in that moment: of a hundred calls or so, hardly any."""


async def test_starts_answers_and_log_lines_are_the_providers() -> None:
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(128))
    books = await run(ENDPOINTS, 600, seed=3)
    assert whole(books) == []
    rows = [row(books, each) for each in books.endpoints]
    assert {each.name: (each.served, each.unknown) for each in rows} == {
        each.name: (each.answered, 0) for each in rows
    }
    for each in rows:
        assert each.told - each.doubtful <= each.started <= each.told, each
        assert each.doubtful <= MOST_DOUBTFUL, each
        allowed = 0.1 if each.tolerance < 0.1 else each.tolerance
        off = allowed * each.billed
        assert each.booked - each.presumed_usd < each.billed + off
        assert each.booked > each.billed - each.untold_usd - off
        assert each.started > 0
