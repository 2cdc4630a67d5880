"""HTML pages with a common style. Each page is a single file that loads nothing else."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from pipeline_lib import provenance
from pipeline_lib.runtime.files import replacing


def write_page(template: str, output: str | Path, **content: Any) -> None:
    """Render a template of this folder and write the page.

    Parameters
    ----------
    template : str
        File name of the template.
    output : str or Path
        HTML file to write.
    **content
        Variables of the template. All text is escaped.
    """
    page = environment().get_template(template).render(content, bordure=provenance.version())
    with replacing(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def environment() -> jinja2.Environment:
    """Return what reads the templates of this folder, with filters for numbers and settings."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    found.filters |= {
        "amount": amount,
        "code": code,
        "digits": digits,
        "duration": duration,
        "gain": gain,
        "setting": setting,
        "size": size,
    }
    return found


def amount(number: float) -> str:
    """Format a large number with at most three digits and a letter.

    Parameters
    ----------
    number : float
        The number.

    Returns
    -------
    str
        The number; k is a thousand, M a million, G a thousand million.

    Examples
    --------
    >>> from pipeline_lib.pages import amount
    >>> amount(812), amount(27_560), amount(1_900_000), amount(2.5e10)
    ('812', '27.6 k', '1.9 M', '25 G')
    """
    letters = ["G", "M", "k", ""]
    while number >= 999.5 and len(letters) > 1:
        number, _ = number / 1000, letters.pop()
    return f"{number:.3g} {letters[-1]}".rstrip()


def code(text: str) -> Markup:
    """Format a message as HTML: parts between backticks become code.

    Parameters
    ----------
    text : str
        The message.

    Returns
    -------
    markupsafe.Markup
        The message, escaped.

    Examples
    --------
    >>> from pipeline_lib.pages import code
    >>> code("a < b: set `x`.")
    Markup('a &lt; b: set <code>x</code>.')
    """
    return Markup(re.sub("`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def digits(value: float) -> str:
    """Format a score with three decimals, or with two significant digits if it is below 0.01.

    Parameters
    ----------
    value : float
        The score.

    Returns
    -------
    str
        The formatted score; `n/a` if it is not finite.

    Examples
    --------
    >>> from pipeline_lib.pages import digits
    >>> digits(0.90877), digits(0.00123), digits(float("nan"))
    ('0.909', '0.0012', 'n/a')
    """
    if not math.isfinite(value):
        return "n/a"
    return f"{value:.3f}" if abs(value) >= 0.01 or value == 0 else f"{value:.2g}"


def duration(seconds: float) -> str:
    """Format a duration in seconds.

    Parameters
    ----------
    seconds : float
        The duration (s).

    Returns
    -------
    str
        The duration with a suitable unit.

    Examples
    --------
    >>> from pipeline_lib.pages import duration
    >>> duration(0.04), duration(42), duration(200), duration(7500)
    ('40 ms', '42 s', '3 min 20 s', '2 h 05 min')
    """
    if seconds < 0.0995:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {rest:02} s" if minutes else f"{rest} s"


def gain(value: float) -> str:
    """Format the difference of two scores with its sign and three decimals.

    Parameters
    ----------
    value : float
        The difference.

    Returns
    -------
    str
        The formatted difference; `n/a` if it is not finite.

    Examples
    --------
    >>> from pipeline_lib.pages import gain
    >>> gain(0.0216), gain(-0.0041), gain(0.00002)
    ('+0.022', '-0.0041', '+0.000020')
    """
    if not math.isfinite(value):
        return "n/a"
    if abs(value) >= 0.01:
        return f"{value:+.3f}"
    return f"{value:+.{max(1 - math.floor(math.log10(abs(value))), 3)}f}" if value else "0"


def size(count: float) -> str:
    """Format a number of bytes.

    Parameters
    ----------
    count : float
        Number of bytes.

    Returns
    -------
    str
        The size with a decimal unit.

    Examples
    --------
    >>> from pipeline_lib.pages import size
    >>> size(812), size(3400), size(2.1e9)
    ('812 B', '3.4 kB', '2.1 GB')
    """
    units = ["GB", "MB", "kB", "B"]
    while count >= 999.5 and len(units) > 1:
        count, _ = count / 1000, units.pop()
    return f"{count:.1f} {units[-1]}" if count < 9.95 and units[-1] != "B" else f"{count:.0f} {units[-1]}"


def setting(value: Any) -> str:
    """Format a value as it is written in the configuration file.

    Parameters
    ----------
    value : str, number, bool, list, dict or None
        The value.

    Returns
    -------
    str
        The value in JSON, text without quotes.

    Examples
    --------
    >>> from pipeline_lib.pages import setting
    >>> setting("unet"), setting(True), setting([2, 5.0])
    ('unet', 'true', '[2, 5.0]')
    """
    return value if isinstance(value, str) else json.dumps(value)
