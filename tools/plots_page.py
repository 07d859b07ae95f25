"""Draws the pictures of `docs/plots.md` with the code of that page: `python tools/plots_page.py`.

Each picture shows the `figure` of the block of code above it.
"""

import contextlib
import re
import tempfile
from pathlib import Path


PAGE = Path(__file__).parent.parent / "docs" / "plots.md"
PARTS = re.compile(r"^```python\n(.*?)^```$|^!\[.*?\]\((plots/\w+\.png)\)$", re.DOTALL | re.MULTILINE)
DPI = 100


def main() -> None:
    """Runs the blocks in their order and writes a PNG for each picture."""
    names: dict = {}
    (PAGE.parent / "plots").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # the page writes a file, too
        for code, picture in PARTS.findall(PAGE.read_text()):
            if code:
                exec(compile(code, PAGE, "exec"), names)
                continue
            path = PAGE.parent / picture
            names["figure"].savefig(path, dpi=DPI, pil_kwargs={"optimize": True})
            print(f"{picture}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
