"""Two moons with one datum known and the other in an interval."""

import numpy as np

from retrodict import plots
from retrodict.constraints import Interval
from retrodict.diagnostics import c2st
from retrodict.models import joint
from retrodict.simulation._simulate import simulate
from retrodict.training import fit
from retrodict_bench.gallery._exhibit import Budget, Exhibit, Shown
from retrodict_bench.tasks import two_moons


X0, LOW, HIGH, PROPOSED = 0.1, -0.1, 0.15, 100_000
ROLES = np.asarray([1, 1, 2, 1])  # both of theta and x1 asked, x0 given


def show(budget: Budget, seed: int, *, progress: bool) -> Shown:
    """theta given x0 and an interval of x1, beside exact draws that fall into it."""
    task = two_moons.task()
    sims = simulate(task.problem, budget.simulations, key=seed)
    model, _ = fit(joint(sims.layout), sims, key=seed + 1, steps=budget.steps, progress=progress)
    assert task.conditional is not None
    many = np.asarray(task.conditional(ROLES, np.asarray([np.nan, np.nan, X0, np.nan]), PROPOSED, seed + 2))
    inside = many[(many[:, 3] >= LOW) & (many[:, 3] <= HIGH)][: budget.draws]
    given = {"x": Interval([X0, LOW], [X0, HIGH])}
    found = model.guided(2 * budget.draws, given=given, of=["theta", "x"], key=seed + 3)
    plain = model.sample(budget.draws, given=given, of=["theta", "x"], correct=False, key=seed + 3)
    right = found.resampled(len(inside), seed + 4)

    def score(draws: dict[str, np.ndarray]) -> float:
        rows = np.concatenate([draws["theta"], draws["x"][:, 1:]], axis=1)[: len(inside)]
        return float(c2st(inside[:, [0, 1, 3]], rows).accuracy)

    findings = {
        "theta and x1": {
            "C2ST, guidance alone": score(plain),
            "C2ST, corrected": score(right),
            "effective share": found.effective_size / (2 * budget.draws),
        }
    }
    exact = {"theta": inside[:, :2], "x1": inside[:, 3]}
    ours = {"theta": right["theta"], "x1": right["x"][:, 1]}
    caption = f"x0 = {X0}, x1 between {LOW} and {HIGH}: exact draws by rejection, and ours"
    return Shown({"posterior": (plots.corner({"exact": exact, "corrected": ours}), caption)}, findings)


EXHIBIT = Exhibit(
    "Two moons, a datum in an interval",
    "One datum is known, of the other only that it lies in an interval; theta is asked.",
    Budget(30_000, 6000, draws=2000),
    show,
)
