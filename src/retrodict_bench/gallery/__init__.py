"""The gallery: what one model can be asked, shown on problems whose answers can be judged.

Every exhibit trains a model from nothing, asks it, and compares with exact draws, fresh simulations or the true
simulator; each stays below ten minutes on two cores.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrodict import plots, report
from retrodict._errors import DataError, FileError, unknown
from retrodict._runtime.atomic_files import make_folder, write_whole
from retrodict_bench.gallery import _epidemic, _gaussian, _influenza, _moons, _neuron, _predators, _sites
from retrodict_bench.gallery._exhibit import Budget as Budget
from retrodict_bench.gallery._exhibit import Exhibit as Exhibit
from retrodict_bench.gallery._exhibit import Shown as Shown


EXHIBITS: dict[str, Exhibit] = {
    "gaussian": _gaussian.EXHIBIT,
    "two_moons": _moons.EXHIBIT,
    "lotka_volterra": _predators.EXHIBIT,
    "sird": _epidemic.EXHIBIT,
    "hodgkin_huxley": _neuron.EXHIBIT,
    "influenza": _influenza.CONSTANT,
    "influenza_varying": _influenza.VARYING,
    "seir": _sites.EPIDEMIC,
    "blood_flow": _sites.PATIENTS,
}


def run(out: Path, *, only: Sequence[str] | None = None, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Makes the exhibits `only`, by default all, and returns what `gallery.json` holds: findings, budget, time by name.

    After each exhibit its figures and the page, with all that were made so far, are written; exhibits that an earlier
    run left in the folder stay on the page.

    Raises:
        DataError: a name that is no exhibit.
        FileError: the folder cannot be made or written.
    """
    names = list(EXHIBITS) if only is None else list(dict.fromkeys(only))
    for name in names:
        if name not in EXHIBITS:
            raise DataError(unknown("the gallery", name, EXHIBITS, owner="it has"))
    make_folder(out)
    found = _earlier(out / "gallery.json")
    for name in names:
        exhibit, begun = EXHIBITS[name], time.perf_counter()
        shown = exhibit.show(exhibit.budget, seed, progress=progress)
        pictures = [
            {"file": plots.save(figure, out / f"{name}_{which}.png").name, "caption": caption}
            for which, (figure, caption) in shown.figures.items()
        ]
        found[name] = {
            "seed": seed,
            "budget": asdict(exhibit.budget),
            "seconds": time.perf_counter() - begun,
            "findings": shown.findings,
            "notes": list(shown.notes),
            "figures": pictures,
        }
        found = {key: found[key] for key in EXHIBITS if key in found}
        write_whole(out / "gallery.json", json.dumps(found, indent=1).encode())
        write_page(out, found)
    return {name: found[name] for name in names}


def _earlier(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(f"'{file}' is no gallery: {error}; take it away or choose another folder") from error
    return {name: row for name, row in found.items() if name in EXHIBITS}


def write_page(out: Path, found: Mapping[str, Any]) -> Path:
    """`gallery.html`, one page with every exhibit made so far."""
    sections = []
    for name, row in found.items():
        exhibit = EXHIBITS[name]
        blocks: list[Any] = [report.Text("\n\n".join([exhibit.lead, *row["notes"]]))]
        blocks += [report.Picture(str(out / f["file"]), f["caption"], alt=f["caption"]) for f in row["figures"]]
        columns = list(dict.fromkeys(key for found in row["findings"].values() for key in found))
        cells = [[which, *(found.get(key) for key in columns)] for which, found in row["findings"].items()]
        blocks.append(report.Table(["", *columns], cells, spent(row)))
        sections.append(report.Section(exhibit.title, blocks))
    lead = "What one model can be asked: each exhibit trained from nothing, and judged by what is known."
    return report.write_report(out / "gallery.html", "Gallery", sections, lead=lead)


def spent(row: Mapping[str, Any]) -> str:
    """Seed, budget and time of one exhibit, in words."""
    budget = row["budget"]
    return f"{budget['simulations']} simulations, {budget['steps']} steps, seed {row['seed']}, {row['seconds']:.0f} s"


def tell(found: Mapping[str, Any]) -> str:
    """What the command prints."""
    lines = []
    for name, row in found.items():
        lines.append(f"{name}: {spent(row)}")
        for which, numbers in row["findings"].items():
            lines.append(f"  {which}: " + ", ".join(f"{key} {value:.3g}" for key, value in numbers.items()))
    return "\n".join(lines)
