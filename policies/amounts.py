"""Amounts in words for people, as exact as is of use. Pure; knows nothing of what they are of."""


def seconds(value: float) -> str:
    """`40 ms`, `1.2 s`, `3 min`: as exact as it is of use."""
    if value < 0.0005:
        return f"{value * 1000:.1g} ms"
    if value < 0.9995:
        return f"{value * 1000:.3g} ms"
    if value < 100.0:
        return f"{value:.3g} s"
    return f"{value / 60:.3g} min" if value < 6000.0 else f"{value / 3600:.3g} h"


def dollars(value: float) -> str:
    """Dollars to four significant digits, never rounded to nothing."""
    if not value:
        return "$0"
    return f"${value:,.2f}" if value >= 1.0 else f"${value:.3g}" if value >= 1e-4 else f"${value:.2e}"
