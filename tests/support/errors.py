"""What two errors have in common: who keeps an error raises a copy of it, so that nothing of a call stays alive."""


def told(error: BaseException) -> tuple[type[BaseException], tuple[object, ...], dict[str, object]]:
    """All that an error says of itself: its kind, its words, and what stands beside them."""
    return type(error), error.args, vars(error)
