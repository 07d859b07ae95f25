"""Two moons with one datum known and the other in an interval."""

import numpy as np

from retrodict import Interval, fit, joint, plots, simulate
from retrodict.diagnostics import c2st
from retrodict_bench.gallery._exhibit import Budget, Exhibit, ExhibitResult
from retrodict_bench.tasks import two_moons


X0, LOW, HIGH, N_PROPOSALS = 0.1, -0.1, 0.15, 100_000
ROLES = np.asarray([1, 1, 2, 1])  # theta and x1 are latent, x0 is given


def show(budget: Budget, seed: int, *, progress: bool) -> ExhibitResult:
    """Draws theta given x0 and an interval of x1, and compares with exact draws by rejection."""
    task = two_moons.task()
    sims = simulate(task.problem, budget.simulations, key=seed)
    model, _ = fit(joint(sims.layout), sims, key=seed + 1, steps=budget.steps, progress=progress)
    assert task.conditional is not None
    proposals = np.asarray(task.conditional(ROLES, np.asarray([np.nan, np.nan, X0, np.nan]), N_PROPOSALS, seed + 2))
    accepted = proposals[(proposals[:, 3] >= LOW) & (proposals[:, 3] <= HIGH)][: budget.draws]
    interval = {"x": Interval([X0, LOW], [X0, HIGH])}
    weighted = model.guided(2 * budget.draws, given=interval, of=["theta", "x"], key=seed + 3)
    plain = model.sample(budget.draws, given=interval, of=["theta", "x"], correct=False, key=seed + 3)
    corrected = weighted.resampled(len(accepted), seed + 4)

    def score(draws: dict[str, np.ndarray]) -> float:
        rows = np.concatenate([draws["theta"], draws["x"][:, 1:]], axis=1)[: len(accepted)]
        return float(c2st(accepted[:, [0, 1, 3]], rows).accuracy)

    findings = {
        "theta and x1": {
            "C2ST, guidance alone": score(plain),
            "C2ST, corrected": score(corrected),
            "effective share": weighted.effective_size / (2 * budget.draws),
        }
    }
    exact = {"theta": accepted[:, :2], "x1": accepted[:, 3]}
    ours = {"theta": corrected["theta"], "x1": corrected["x"][:, 1]}
    caption = f"x0 = {X0}, x1 between {LOW} and {HIGH}: exact draws by rejection, and ours"
    return ExhibitResult({"posterior": (plots.corner({"exact": exact, "corrected": ours}), caption)}, findings)


EXHIBIT = Exhibit(
    "Two moons, a datum in an interval",
    "One datum is known; the other is only known to lie in an interval. The answer is theta.",
    Budget(30_000, 6000, draws=2000),
    show,
)
