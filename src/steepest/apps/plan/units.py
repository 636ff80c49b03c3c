"""Quantities as people read them."""

from __future__ import annotations


def scaled(value: float, unit: str) -> str:
    """A quantity with three digits at most.

    Examples:
        >>> [scaled(v, "B") for v in (0, 512, 1.45e9, 98.7e9, 3.3e12)]
        ['0 B', '512 B', '1.4 GB', '99 GB', '3.3 TB']
        >>> scaled(0.00234, "s"), scaled(5e-7, "s"), scaled(4096.0, "s")
        ('2.3 ms', '0.5 µs', '4096 s')
    """
    power = 0
    while abs(value) >= 999.5 and unit != "s" and power < 6:
        value, power = value / 1000, power + 1
    while 0 < abs(value) < 0.9995 and unit == "s" and power > -2:
        value, power = value * 1000, power - 1
    prefix = {-2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}[power]
    digits = (
        f"{value:.0f}"
        if value == 0 or abs(value) >= 9.95 or value == int(value)
        else f"{value:.1f}"
    )
    return f"{digits} {prefix}{unit}".strip()
