"""The demonstration: inference from the Hudson's Bay Company's pelts of lynx and hare, 1900 to 1920.

One joint model of the eight parameters and the 42 counts is trained on simulations from the prior. It answers

    1  the posterior         parameters given all counts
    2  a forecast            the counts of 1911 to 1920 given those of 1900 to 1910
    3  missing data          parameters and six lynx counts given the other 36
    4  the likelihood        counts given the posterior means, beside the true simulator's
    5  an unconditional draw parameters and counts, beside the prior predictive

The posterior is about ten times narrower than the prior in every direction, so few simulations from the prior look
like the data. Two focused rounds follow. Each truncates the prior to an ellipsoid that holds the posterior of the
round before: first given the counts up to 1910 (for question 2), then given the 36 counts (for 1, 3 and 4, because six
more counts only narrow the posterior). Inside the ellipsoid the posterior does not change, so no correction is needed.

The likelihood is tractable here, so exact answers by NUTS are known and stand beside the model's.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from retrodict import Layout, fit, joint, plots, report, save, simulate, truncate
from retrodict._runtime.atomic_files import make_folder, write_npz, write_whole
from retrodict.diagnostics.summary import summarize
from retrodict.models import FlowModel
from retrodict.nets import ResMLP
from retrodict.query import parse
from retrodict.roles import AbstractRoleLaw, Likelihood, Mixture, Query, random_roles
from retrodict.training import History
from retrodict_bench.tasks import lynx_hare


Draws = Mapping[str, np.ndarray]
YEARS = np.asarray(lynx_hare.YEARS)
PARAMETERS = list(lynx_hare.PARAMETERS)
SPECIES = ["hare", "lynx"]


@dataclass(frozen=True)
class Round:
    """The budget of one round, and the posterior mass of the round before that its truncated prior holds."""

    simulations: int
    steps: int
    mass: float = 1.0


@dataclass(frozen=True)
class Plan:
    """The three rounds, the network that each of them trains, and the number of draws of each answer."""

    wide: Round
    forecast: Round
    focused: Round
    net: ResMLP | None = None
    draws: int = 10_000


# a network smaller than the default one takes twice the steps in the same time, and the last round has enough
# simulations that it does not memorize them
QUICK = Plan(
    Round(100_000, 4_000), Round(100_000, 6_000, 0.99), Round(750_000, 20_000, 0.999), net=ResMLP(width=128, depth=4)
)
THOROUGH = Plan(Round(200_000, 10_000), Round(200_000, 12_000, 0.99), Round(600_000, 60_000, 0.999), draws=20_000)


@dataclass
class TrainedRounds:
    """The models of all rounds by name, with their histories, counts and times."""

    models: dict[str, FlowModel] = field(default_factory=dict)
    histories: dict[str, History] = field(default_factory=dict)
    simulations: dict[str, dict[str, int]] = field(default_factory=dict)
    truncations: dict[str, dict[str, float]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


def run(out: Path, *, thorough: bool, seed: int = 0, progress: bool = True) -> dict[str, Any]:
    """Runs the demonstration, writes everything into `out`, and returns the content of `summary.json`.

    Raises:
        FileError: the folder cannot be made or written.
    """
    start = time.perf_counter()
    make_folder(out)
    plan = THOROUGH if thorough else QUICK
    rounds = train(plan, seed=seed, progress=progress)
    answers_start = time.perf_counter()
    answers = {name: answer(rounds, plan.draws, seed, *models) for name, models in ANSWERED_BY.items()}
    draws = {**answers["focused"], **predictive_draws(rounds, plan.draws, seed, answers["focused"]["posterior"])}
    rounds.seconds["answers"] = time.perf_counter() - answers_start
    summary: dict[str, Any] = {
        **summaries(answers["focused"]),
        "one_round": summaries(answers["one_round"]),
        "comparison": {name: compare(variants["posterior"]) for name, variants in answers.items()},
        "simulations": rounds.simulations,
        "truncations": rounds.truncations,
        "plan": asdict(plan),
        "seed": seed,
    }
    for name, model in rounds.models.items():
        save(model, out / ("model.safetensors" if name == "wide" else f"model-{name}.safetensors"))
    write_npz(out / "draws.npz", {f"{q}.{name}": v for q, answer in draws.items() for name, v in answer.items()})
    figures = save_figures(rounds, draws, out)
    rounds.seconds["total"] = time.perf_counter() - start
    summary["seconds"] = rounds.seconds
    write_whole(out / "summary.json", json.dumps(summary, indent=1).encode())
    write_page(out, summary, figures, thorough=thorough)
    return summary


WEIGHTS = {  # of random roles, posterior, missing data, the forecast's counts, its parameters, likelihood
    "wide": (0.5, 0.15, 0.15, 0.1, 0.1, 0.0),
    "forecast": (0.25, 0.15, 0.25, 0.25, 0.1, 0.0),
    "focused": (0.0, 0.5, 0.3, 0.0, 0.0, 0.2),
}
ANSWERED_BY = {  # the model for the posterior and missing data, and the model for the forecast
    "one_round": ("wide", "wide"),
    "focused": ("focused", "forecast"),
}


def train(plan: Plan, *, seed: int, progress: bool) -> TrainedRounds:
    """Simulates and trains the wide round and the two focused ones."""
    rounds, problem, observations = TrainedRounds(), lynx_hare.problem(), lynx_hare.questions()
    stages = (("wide", plan.wide, None), ("forecast", plan.forecast, "forecast"), ("focused", plan.focused, "missing"))
    model: FlowModel | None = None
    for number, (name, budget, focus) in enumerate(stages):
        start, truncated = time.perf_counter(), problem
        if focus is not None and model is not None:
            # no margin: the bars measure the widths
            cut: dict[str, Any] = {"given": observations[focus], "mass": budget.mass, "margin": 1.0}
            truncated = truncate(problem, model, **cut, key=seed + 100 + number)
            prior: Any = truncated.prior
            rounds.truncations[name] = {"cut_off": prior.cut_off, "prior_mass": prior.prior_mass}
        sims = simulate(truncated, budget.simulations, key=seed + number)
        rounds.simulations[name] = sims.counts
        rounds.seconds[f"{name}: simulating"] = time.perf_counter() - start
        start = time.perf_counter()
        untrained = joint(sims.layout, net=plan.net, roles=role_law(sims.layout, name), key=seed + number)
        model, rounds.histories[name] = fit(
            untrained, sims, key=seed + number, steps=budget.steps, failed="ignore", progress=progress
        )
        rounds.models[name] = model
        rounds.seconds[f"{name}: training"] = time.perf_counter() - start
    return rounds


def role_law(layout: Layout, name: str) -> AbstractRoleLaw:
    """Returns the law of roles that a round trains: random roles, and the questions that it will be asked."""
    observations = lynx_hare.questions()

    def query(question: str, of: list[str]) -> Query:
        return Query(tuple(parse(layout, observations[question], of).roles[0].tolist()))

    laws = (
        random_roles(),
        query("full", PARAMETERS),
        query("missing", [*PARAMETERS, "lynx"]),
        query("forecast", SPECIES),
        query("forecast", PARAMETERS),
        Likelihood(),
    )
    return Mixture(laws, WEIGHTS[name])


def answer(rounds: TrainedRounds, n: int, seed: int, posterior: str, forecast: str) -> dict[str, Draws]:
    """Draws the answers to questions 1 and 3 from the model `posterior`, and to question 2 from `forecast`."""
    observations, focused, earlier = lynx_hare.questions(), rounds.models[posterior], rounds.models[forecast]
    return {
        "posterior": focused.sample(n, given=observations["full"], key=seed + 1),
        "forecast": earlier.sample(n, given=observations["forecast"], of=SPECIES, key=seed + 2),
        "missing": focused.sample(n, given=observations["missing"], of=[*PARAMETERS, "lynx"], key=seed + 3),
    }


def predictive_draws(rounds: TrainedRounds, n: int, seed: int, posterior: Draws) -> dict[str, Draws]:
    """Draws the answers to questions 4, at a posterior's means, and 5, and the true simulator's counts for both."""
    means = {name: np.float32(posterior[name].mean()) for name in PARAMETERS}
    pelts = lynx_hare.pelts(seed + 5, {name: np.full(n, value) for name, value in means.items()})
    return {
        "likelihood": rounds.models["focused"].sample(n, given=means, key=seed + 4),
        "simulator": {name: np.asarray(values) for name, values in pelts.items()},
        "unconditional": rounds.models["wide"].sample(n, key=seed + 6),
        "prior": dict(simulate(lynx_hare.problem(), n, key=seed + 7)),
    }


def summaries(answers: Mapping[str, Draws]) -> dict[str, Any]:
    """Returns means, sds and quantiles of the elements that questions 1 to 3 ask for."""
    return {
        "posterior": summarize(answers["posterior"]),
        "forecast": _years_from(summarize(answers["forecast"]), lynx_hare.FORECAST),
        "missing": _missing_only(summarize(answers["missing"])),
    }


def compare(posterior: Draws) -> dict[str, dict[str, float]]:
    """Returns, for each parameter, the distance of its mean from the exact one in exact sds, and the ratio of sds."""
    exact = lynx_hare.exact()["full"]["parameters"]
    return {
        name: {
            "distance": float((posterior[name].mean() - exact[name]["mean"]) / exact[name]["sd"]),
            "ratio": float(posterior[name].std() / exact[name]["sd"]),
            "exact_mean": exact[name]["mean"],
            "exact_sd": exact[name]["sd"],
        }
        for name in PARAMETERS
    }


def save_figures(rounds: TrainedRounds, draws: Mapping[str, Draws], out: Path) -> dict[str, Path]:
    """Draws the figures and returns their PNG files in `out`."""
    observed, split = lynx_hare.questions()["full"], int(YEARS[lynx_hare.FORECAST - 1])
    hidden = list(lynx_hare.MISSING)
    figures = {
        "posterior": plots.corner({"model": draws["posterior"]}, names=PARAMETERS),
        "forecast": plots.forecast(
            YEARS, {s: draws["forecast"][s] for s in SPECIES}, observed, split, xlabel="year", log=True
        ),
        "missing": plots.missing(
            {"lynx": draws["missing"]["lynx"][:, hidden]},
            {"lynx": observed["lynx"][hidden]},
            labels={"lynx": [str(year) for year in YEARS[hidden]]},
            xlabel="year",
        ),
        "likelihood": plots.overlay(
            YEARS,
            {"model": _series(draws["likelihood"]), "simulator": _series(draws["simulator"])},
            xlabel="year",
            log=True,
        ),
        "unconditional": plots.overlay(
            YEARS,
            {"model": _series(draws["unconditional"]), "prior predictive": _series(draws["prior"])},
            xlabel="year",
            log=True,
        ),
        "losses": plots.losses(rounds.histories["focused"]),
    }
    return {name: plots.save(figure, out / f"{name}.png") for name, figure in figures.items()}


def write_page(out: Path, summary: Mapping[str, Any], figures: Mapping[str, Path], *, thorough: bool) -> Path:
    """Writes the report, one self-contained page, and returns its file."""
    columns = ["parameter", "mean", "sd", "exact mean", "exact sd", "distance / sd", "sd ratio"]
    compared = summary["comparison"]["focused"]

    def rows(summary: Mapping[str, Mapping[str, float]], exact: Mapping[str, Mapping[str, float]]) -> list[list[Any]]:
        keys = ("exact_mean", "exact_sd", "distance", "ratio")
        cells = {name: [summary[name]["mean"], summary[name]["sd"], *map(exact[name].get, keys)] for name in PARAMETERS}
        return [[name, *(float(f"{value:.3g}") for value in row)] for name, row in cells.items()]

    key = report.Table(
        columns,
        rows(summary["posterior"], compared),
        "The posterior given all 42 counts, beside NUTS on the same model.",
    )
    one_round = report.Table(
        columns,
        rows(summary["one_round"]["posterior"], summary["comparison"]["one_round"]),
        "The same from one round of simulations over the whole prior.",
    )
    counts = [[name, c["drawn"], c["kept"], c["failed"]] for name, c in summary["simulations"].items()]
    truncations = "; ".join(
        f"{name}: {100 * t['cut_off']:.2f} % of the posterior cut off, {t['prior_mass']:.2g} of the prior kept"
        for name, t in summary["truncations"].items()
    )
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in summary["seconds"].items())
    sections = [
        report.Section(title, [report.Text(text), _picture(figures[name], title)]) for name, title, text in PAGE
    ]
    sections.append(
        report.Section(
            "How it was done",
            [
                report.Text(__doc__.split("\n\n", 1)[1].strip()),
                report.Table(
                    ["round", "drawn", "kept", "failed"], counts, f"Simulations. Truncated priors: {truncations}."
                ),
                report.Text(FAILURES),
                one_round,
                _picture(figures["losses"], "Losses of the focused round"),
            ],
        )
    )
    lead = "What one generative model says of parameters, forecast, missing counts, likelihood and prior."
    return report.write_report(
        out / "report.html",
        "Lynx and hare, 1900 to 1920",
        sections,
        lead=lead,
        key_figures=key,
        footnote=f"{'thorough' if thorough else 'quick'} run, seed {summary['seed']}; {seconds}.",
    )


PAGE = (  # figure, title, text
    (
        "posterior",
        "The posterior of all eight parameters",
        "Given all 42 counts; the exact figures stand in the table above.",
    ),
    ("forecast", "A forecast of 1911 to 1920", "Given 1900 to 1910 only, beside what happened (hollow)."),
    ("missing", "Six lynx counts that were hidden", "What the model says they were, beside what they were."),
    ("likelihood", "The likelihood", "Counts given the posterior means, by the model and by the true simulator."),
    ("unconditional", "Nothing given", "Counts drawn from the model, beside the prior predictive."),
)
FAILURES = (
    "A simulation fails when its equations are too stiff for the solver or a count is too small for a number. Failed "
    "runs are counted and kept out of training. Observed counts are finite, so the run behind them did not fail: the "
    "posterior given them is untouched; only draws of the prior and the likelihood are those of runs that end well."
)


def summary_text(summary: Mapping[str, Any], out: Path) -> str:
    """Returns the output of the command: the posterior, its distance from the exact one, and the files."""
    focused, one_round = summary["comparison"]["focused"], summary["comparison"]["one_round"]
    lines = [
        f"{'':11}{'mean':>9}{'sd':>9}{'q05':>9}{'q95':>9} | {'exact':>9}{'sd':>9} | distance/sd  sd ratio | one round"
    ]
    for name in PARAMETERS:
        p, c, o = summary["posterior"][name], focused[name], one_round[name]
        lines.append(
            f"{name:11}{p['mean']:9.4g}{p['sd']:9.3g}{p['q05']:9.4g}{p['q95']:9.4g} | {c['exact_mean']:9.4g}"
            f"{c['exact_sd']:9.3g} | {c['distance']:+11.2f}{c['ratio']:10.2f} | {o['distance']:+.2f} {o['ratio']:.2f}"
        )
    failed = sum(c["failed"] for c in summary["simulations"].values())
    total = sum(c["drawn"] for c in summary["simulations"].values())
    lines.append(f"{total} simulations, {failed} failed; {summary['seconds']['total']:.0f} s")
    lines.append(f"report: {out / 'report.html'}; figures, draws.npz, summary.json and model.safetensors beside it")
    return "\n".join(lines)


def _series(draws: Draws) -> dict[str, np.ndarray]:
    return {name: draws[name] for name in SPECIES}


def _picture(file: Path, title: str) -> report.Picture:
    return report.Picture(str(file), alt=title)


def _years_from(summary: dict[str, Any], first: int) -> dict[str, Any]:
    return {name: row for name, row in summary.items() if int(name.split("[")[1].rstrip("]")) >= first}


def _missing_only(summary: dict[str, Any]) -> dict[str, Any]:
    names = {*PARAMETERS, *(f"lynx[{i}]" for i in lynx_hare.MISSING)}
    return {name: row for name, row in summary.items() if name in names}
