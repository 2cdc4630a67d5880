"""HTML pages: one look for all of them, each a single file that needs nothing from outside."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import jinja2

from pipeline_lib import provenance
from pipeline_lib.runtime.files import replacing


def write_page(template: str, output: str | Path, **content: Any) -> None:
    """Write the page that `template`, a file beside this one, makes of `content`; all text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"digits": digits, "duration": duration, "setting": setting, "size": size}
    page = environment.get_template(template).render(content, bordure=provenance.version())
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def digits(value: float) -> str:
    """A score with three decimals, small ones with two significant digits; `n/a` where it is not defined."""
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Seconds as 40 ms, 0.3 s, 42 s, 3 min 20 s or 2 h 05 min."""
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def size(count: float) -> str:
    """Bytes as 812 B, 3.4 kB, 34 kB, 340 MB or 2.1 GB."""
    units = ["GB", "MB", "kB", "B"]
    while count >= 999.5 and len(units) > 1:
        count, _ = count / 1000, units.pop()
    return f"{count:.1f} {units[-1]}" if count < 9.95 and units[-1] != "B" else f"{count:.0f} {units[-1]}"


def setting(value: Any) -> str:
    """A value as it would be typed in the configuration."""
    return value if isinstance(value, str) else json.dumps(value)
