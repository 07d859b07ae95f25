"""The gallery: questions that one model answers, shown on problems whose answers can be scored.

Every exhibit trains a model from scratch, asks it, and compares the answers with exact draws, fresh simulations or the
true simulator. Each takes less than ten minutes on two cores.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from retrodict import DataError, FileError, plots, report
from retrodict._errors import unknown
from retrodict._runtime.atomic_files import make_folder, write_whole
from retrodict_bench.gallery import _epidemic, _gaussian, _influenza, _moons, _neuron, _predators, _sites
from retrodict_bench.gallery._exhibit import Budget as Budget
from retrodict_bench.gallery._exhibit import Exhibit as Exhibit
from retrodict_bench.gallery._exhibit import ExhibitResult as ExhibitResult


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
    """Makes the exhibits `only`, by default all, and returns their entries of `gallery.json`: findings, budget, time.

    Figures and page are written after each exhibit. Exhibits of an earlier run stay in the folder and on the page.

    Raises:
        DataError: a name that is no exhibit.
        FileError: the folder cannot be made or written.
    """
    names = list(EXHIBITS) if only is None else list(dict.fromkeys(only))
    for name in names:
        if name not in EXHIBITS:
            raise DataError(unknown("the gallery", name, EXHIBITS, owner="it has"))
    make_folder(out)
    entries = _read_entries(out / "gallery.json")
    for name in names:
        exhibit, start = EXHIBITS[name], time.perf_counter()
        result = exhibit.show(exhibit.budget, seed, progress=progress)
        pictures = [
            {"file": plots.save(figure, out / f"{name}_{label}.png").name, "caption": caption}
            for label, (figure, caption) in result.figures.items()
        ]
        entries[name] = {
            "seed": seed,
            "budget": asdict(exhibit.budget),
            "seconds": time.perf_counter() - start,
            "findings": result.findings,
            "notes": list(result.notes),
            "figures": pictures,
        }
        entries = {key: entries[key] for key in EXHIBITS if key in entries}
        write_whole(out / "gallery.json", json.dumps(entries, indent=1).encode())
        write_page(out, entries)
    return {name: entries[name] for name in names}


def _read_entries(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        entries = json.loads(file.read_text())
    except (OSError, json.JSONDecodeError) as error:
        raise FileError(f"'{file}' is no gallery: {error}; take it away or choose another folder") from error
    return {name: row for name, row in entries.items() if name in EXHIBITS}


def write_page(out: Path, entries: Mapping[str, Any]) -> Path:
    """Writes `gallery.html`, one page with every exhibit made so far, and returns its file."""
    sections = []
    for name, row in entries.items():
        exhibit = EXHIBITS[name]
        blocks: list[Any] = [report.Text("\n\n".join([exhibit.lead, *row["notes"]]))]
        blocks += [report.Picture(str(out / f["file"]), f["caption"], alt=f["caption"]) for f in row["figures"]]
        columns = list(dict.fromkeys(key for numbers in row["findings"].values() for key in numbers))
        cells = [[label, *(numbers.get(key) for key in columns)] for label, numbers in row["findings"].items()]
        blocks.append(report.Table(["", *columns], cells, cost_text(row)))
        sections.append(report.Section(exhibit.title, blocks))
    lead = "Questions that one model answers: each exhibit is trained from scratch and compared with known answers."
    return report.write_report(out / "gallery.html", "Gallery", sections, lead=lead)


def cost_text(row: Mapping[str, Any]) -> str:
    """Returns seed, budget and time of one exhibit, in words."""
    budget = row["budget"]
    return f"{budget['simulations']} simulations, {budget['steps']} steps, seed {row['seed']}, {row['seconds']:.0f} s"


def summary_text(entries: Mapping[str, Any]) -> str:
    """Returns the output of the command: cost and findings of every exhibit."""
    lines = []
    for name, row in entries.items():
        lines.append(f"{name}: {cost_text(row)}")
        for label, numbers in row["findings"].items():
            lines.append(f"  {label}: " + ", ".join(f"{key} {value:.3g}" for key, value in numbers.items()))
    return "\n".join(lines)
