"""How figures are written, on terminals and pages alike."""


def number(value: float | None) -> str:
    """A metric to three places, a count as it is, a dash where undefined."""
    if value is None:
        return "–"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


def size(count: float) -> str:
    """Bytes in kB, MB or GB (powers of 1000)."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"
