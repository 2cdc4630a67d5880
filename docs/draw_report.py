"""Take pictures of a report for the documentation, with headless Chromium or Chrome.

    PYTHONPATH=. python docs/draw_report.py results

draws images/report_*.png from results/report.html; the tutorial shows those of the demo.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from tests.browser import Browser

IMAGES = Path(__file__).parent / "images"
#: Name of each picture, what is done before, and the elements that it shows.
PICTURES = {
    "viewer": ("", "#viewer"),
    "errors": ("", ".gallery"),
    "thresholds": ("", "#threshold + .side-by-side > :last-child"),
    "training": ("", "#training + .side-by-side > :last-child"),
}


def main() -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("results", type=Path, help="folder of the finished run")
    report = parser.parse_args().results / "report.html"
    with tempfile.TemporaryDirectory() as folder, Browser(folder, size=(1180, 900)) as browser:
        browser.open(report.resolve())
        browser.run("await new Promise((done) => setTimeout(done, 1000));")
        for name, (steps, selector) in PICTURES.items():
            browser.run(steps)
            output = IMAGES / f"report_{name}.png"
            output.write_bytes(browser.picture(selector))
            print(f"{output}: {output.stat().st_size / 1000:.0f} kB")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
