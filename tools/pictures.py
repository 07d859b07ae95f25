"""Draws the pictures of the guides into docs/pictures, each below 60 kB.

python tools/pictures.py                       # all; minutes, as three small models are trained
python tools/pictures.py functions campaigns   # some

Closed forms are drawn by NumPy. Pictures of models train small networks, and show the exact answer beside theirs.
"""

import argparse
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import numpyro.distributions as dist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

import retrodict as rd


FOLDER = Path(__file__).parent.parent / "docs" / "pictures"
BLUE, ORANGE, GREEN, GRAY = "#0072b2", "#d55e00", "#009e73", "#777777"
DOTS_PER_INCH, PALETTE = 110, 64  # colors of a file
TIMES, DECAY_NOISE = np.arange(8.0), 0.1
COUNTS = np.array([1.4, 1.1, 0.9, np.nan, 0.6, 0.5, 0.4, 0.3])  # the observation of "Getting started"


def panels(count: int, *, width: float = 7.4, height: float = 2.8) -> tuple[Figure, list[Axes]]:
    """Returns a figure with panels side by side."""
    figure = Figure((width, height), layout="constrained")
    return figure, [figure.add_subplot(1, count, i + 1) for i in range(count)]


def bands(ax: Axes, x: np.ndarray, draws: np.ndarray, color: str, label: str = "") -> None:
    """Draws the median of draws `(n, len(x))` and their 50 % and 90 % bands."""
    for low, high, alpha in ((0.05, 0.95, 0.2), (0.25, 0.75, 0.3)):
        ax.fill_between(x, *np.quantile(draws, (low, high), axis=0), color=color, alpha=alpha, lw=0)
    ax.plot(x, np.median(draws, axis=0), color=color, label=label)


# small models ---------------------------------------------------------------------------------------------------------


def decay(key: Any, amount: Any, rate: Any) -> dict[str, Any]:
    """Simulates the decay of "Getting started"."""
    counts = amount * jnp.exp(-rate * jnp.arange(8.0))
    return {"counts": counts + DECAY_NOISE * jax.random.normal(key, (8,))}


def line(key: Any, level: Any, slope: Any) -> dict[str, Any]:
    """Simulates three points of a line."""
    return {"y": level + slope * jnp.arange(3.0) + 0.5 * jax.random.normal(key, (3,))}


@functools.cache
def decay_model() -> Any:
    """Returns a small joint model of the decay, trained for a minute."""
    prior = {"amount": dist.LogNormal(0.0, 0.5), "rate": dist.Uniform(0.0, 1.0)}
    sims = rd.simulate(rd.Problem(prior, decay), 10_000, key=0)
    untrained = rd.joint(sims.layout, net=rd.nets.ResMLP(64, 3))
    return rd.fit(untrained, sims, key=1, steps=4_000, progress=False)[0]


def exact_decay() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Returns a grid of amount and rate, and the exact posterior on it."""
    amount, rate = np.linspace(1.15, 1.65, 200), np.linspace(0.12, 0.32, 200)
    a, r = np.meshgrid(amount, rate)
    residual = (a[..., None] * np.exp(-r[..., None] * TIMES) - COUNTS)[..., np.isfinite(COUNTS)]
    log_density = -0.5 * (residual**2).sum(-1) / DECAY_NOISE**2 - 0.5 * (np.log(a) / 0.5) ** 2 - np.log(a)
    density = np.exp(log_density - log_density.max())
    return amount, rate, density / density.sum()


def contour_levels(density: np.ndarray) -> list[float]:
    """Returns the densities at the ends of the regions that hold 90 % and 50 %."""
    ordered = np.sort(density.ravel())[::-1]
    mass = np.cumsum(ordered) / ordered.sum()
    return [float(ordered[np.searchsorted(mass, share)]) for share in (0.9, 0.5)]


# pictures -------------------------------------------------------------------------------------------------------------


def getting_started() -> Figure:
    """Draws an observation with its posterior predictive, and the posterior beside the exact one."""
    model, given = decay_model(), {"counts": COUNTS}
    posterior = model.sample(2_000, given=given, key=2)
    predictive = model.predictive(posterior, key=3)["counts"]
    figure, (left, right) = panels(2)
    bands(left, TIMES, predictive, BLUE, "posterior predictive")
    left.plot(TIMES, COUNTS, "o", color="black", label="observed")
    left.axvline(3, color=GRAY, ls=":", label="not observed")
    left.set(xlabel="time", ylabel="counts")
    left.legend(frameon=False, fontsize=8)
    _posterior_panel(right, posterior)
    return figure


def _posterior_panel(ax: Axes, posterior: dict[str, np.ndarray]) -> None:
    amount, rate, density = exact_decay()
    ax.plot(posterior["amount"][:800], posterior["rate"][:800], ".", ms=2, color=BLUE, label="draws")
    ax.contour(amount, rate, density, levels=contour_levels(density), colors=ORANGE)
    ax.plot([], [], color=ORANGE, label="exact, 50 % and 90 %")
    ax.set(xlabel="amount", ylabel="rate", xlim=(amount[0], amount[-1]), ylim=(rate[0], rate[-1]))
    ax.legend(frameon=False, fontsize=8)


def questions() -> Figure:
    """Draws three questions to one model."""
    model, given = decay_model(), {"counts": COUNTS}
    figure, (first, second, third) = panels(3)
    _posterior_panel(first, model.sample(1_000, given=given, key=2))
    first.set_title("given counts", fontsize=9)
    known = model.sample(4_000, given={**given, "amount": 1.3}, key=3)["rate"]
    amount, rate, density = exact_decay()
    column = density[:, np.argmin(np.abs(amount - 1.3))]
    second.hist(known, bins=40, density=True, color=BLUE, alpha=0.5, label="draws")
    second.plot(rate, column / (column.sum() * (rate[1] - rate[0])), color=ORANGE, label="exact")
    second.set(xlabel="rate", yticks=[], xlim=(0.12, 0.3))
    second.set_title("given counts and amount", fontsize=9)
    second.legend(frameon=False, fontsize=8)
    emulated = model.sample(1_000, given={"amount": 1.5, "rate": 0.2}, key=4)["counts"]
    bands(third, TIMES, emulated, BLUE, "draws")
    mean = 1.5 * np.exp(-0.2 * TIMES)
    third.plot(TIMES, mean - 1.645 * DECAY_NOISE, "--", color=ORANGE, label="exact, 90 %")
    third.plot(TIMES, mean + 1.645 * DECAY_NOISE, "--", color=ORANGE)
    third.set(xlabel="time", ylabel="counts")
    third.set_title("given amount and rate", fontsize=9)
    third.legend(frameon=False, fontsize=8)
    return figure


def choices() -> Figure:
    """Draws the ways of the exact flow from noise to two modes, on three paths."""
    centers, sd, steps = np.array([-1.0, 1.0]), 0.25, 400
    figure, axes = panels(3, height=2.6)
    paths = {"flow matching": rd.paths.flow_matching(), "VP": rd.paths.vp(), "EDM": rd.paths.edm()}
    for ax, (title, path) in zip(axes, paths.items(), strict=True):
        times = np.linspace(path.span[0], min(path.span[1], 0.999), steps)
        levels = np.asarray(jax.vmap(lambda t, path=path: jnp.stack(path.schedule(t)))(jnp.asarray(times)))
        scale = np.hypot(levels[:, 0], levels[:, 1])
        x = scale[0] * np.linspace(-2.2, 2.2, 17)
        ways = [x]
        for i in range(steps - 1):
            (alpha, sigma), following = levels[i], levels[i + 1]
            variance = (alpha * sd) ** 2 + sigma**2
            log_weight = -0.5 * (x[:, None] - alpha * centers) ** 2 / variance
            weight = np.exp(log_weight - log_weight.max(axis=1, keepdims=True))
            weight /= weight.sum(axis=1, keepdims=True)
            residual = (weight * (x[:, None] - alpha * centers)).sum(axis=1)
            data = (weight * centers).sum(axis=1) + alpha * sd**2 / variance * residual
            noise = (x - alpha * data) / max(sigma, 1e-9)
            x = following[0] * data + following[1] * noise  # the step of DDIM
            ways.append(x)
        ax.plot(times, np.stack(ways) / scale[:, None], color=BLUE, lw=0.8)
        ax.set(title=title, xlabel="t: noise to data", ylim=(-2.4, 2.4))
        ax.title.set_fontsize(9)
    axes[0].set_ylabel("x, at unit scale")
    return figure


def functions() -> Figure:
    """Draws a Gaussian process given three values, and given also a limit."""
    rng, t = np.random.default_rng(0), np.linspace(0.0, 5.0, 101)
    points, values = np.array([0.2, 1.0, 3.5]), np.array([1.1, 0.8, 0.2])

    def kernel(a: np.ndarray, b: np.ndarray) -> np.ndarray:
        return 0.5 * np.exp(-0.5 * ((a[:, None] - b) / 1.2) ** 2)

    gain = np.linalg.solve(kernel(points, points) + 1e-3 * np.eye(3), kernel(points, t)).T
    mean, covariance = gain @ values, kernel(t, t) - gain @ kernel(points, t)
    root = np.linalg.cholesky(covariance + 1e-6 * np.eye(len(t)))
    draws = mean + rng.normal(size=(20_000, len(t))) @ root.T
    limit, place = 0.0, np.argmin(np.abs(t - 4.5))
    figure, axes = panels(2, height=2.6)
    for ax, rows in zip(axes, (draws, draws[draws[:, place] < limit]), strict=True):
        bands(ax, t, rows, BLUE)
        ax.plot(t, rows[:4].T, color=GRAY, lw=0.6)
        ax.plot(points, values, "o", color="black")
        ax.set(xlabel="time", ylim=(-2.2, 2.4))
    axes[0].set_title("three values given", fontsize=9)
    axes[1].set_title("and a fourth below a limit", fontsize=9)
    axes[1].plot([4.5, 4.5], [-2.2, limit], color=ORANGE, lw=4, alpha=0.6)
    return figure


def trust() -> Figure:
    """Draws the coverage of a right posterior and of one that is too narrow."""
    rng, n = np.random.default_rng(3), 300
    theta = rng.normal(size=n)
    x = theta + rng.normal(size=n)
    levels = np.linspace(0.0, 1.0, 101)
    figure, axes = panels(2, width=6.0)
    for ax, factor, title in zip(axes, (1.0, 0.6), ("calibrated", "too narrow"), strict=True):
        z = np.abs(theta - x / 2) / (factor * np.sqrt(0.5))
        credibility = np.asarray(jax.scipy.special.erf(z / np.sqrt(2.0)))
        coverage = (credibility[:, None] <= levels).mean(axis=0)
        band = 2.8 * np.sqrt(levels * (1 - levels) / n)
        ax.fill_between(levels, levels - band, levels + band, color=GRAY, alpha=0.3, lw=0)
        ax.plot(levels, levels, color=GRAY, lw=0.8)
        ax.plot(levels, coverage, color=BLUE if factor == 1.0 else ORANGE)
        ax.set(xlabel="credibility", ylabel="coverage", aspect="equal")
        ax.set_title(title, fontsize=9)
    return figure


def hierarchies() -> Figure:
    """Draws exact posteriors of 12 sites, alone and together."""
    rng, count, spread, noise = np.random.default_rng(5), 12, 0.5, 0.5
    eta = 0.8 + spread * rng.normal(size=count)
    y = eta + noise * rng.normal(size=count)
    # mu ~ N(0, 1), eta ~ N(mu, spread^2), y ~ N(eta, noise^2), all in closed form
    prior = np.block([[np.ones((1, 1 + count))], [np.ones((count, 1)), 1.0 + spread**2 * np.eye(count)]])
    observe = np.concatenate([np.zeros((count, 1)), np.eye(count)], axis=1)
    gain = prior @ observe.T @ np.linalg.inv(observe @ prior @ observe.T + noise**2 * np.eye(count))
    mean, covariance = gain @ y, prior - gain @ observe @ prior
    single = 1.0 + spread**2
    alone_mean, alone_sd = y * single / (single + noise**2), np.sqrt(single * noise**2 / (single + noise**2))
    figure, (ax,) = panels(1, width=6.4)
    sites, order = np.arange(count), np.argsort(y)
    ax.errorbar(sites - 0.12, alone_mean[order], 1.645 * alone_sd, fmt="o", ms=3, color=GRAY, label="each site alone")
    together = 1.645 * np.sqrt(np.diag(covariance))[1:][order]
    ax.errorbar(sites + 0.12, mean[1:][order], together, fmt="o", ms=3, color=BLUE, label="hierarchical model")
    ax.axhspan(*(mean[0] + np.array([-1.645, 1.645]) * np.sqrt(covariance[0, 0])), color=BLUE, alpha=0.15, lw=0)
    ax.axhline(mean[0], color=BLUE, lw=0.8, label="shared mean")
    ax.plot(sites, eta[order], "_", ms=12, color=ORANGE, label="truth")
    ax.set(xlabel="site", ylabel="eta", xticks=sites)
    ax.legend(frameon=False, fontsize=8, ncols=2)
    return figure


def campaigns() -> Figure:
    """Draws the rows of a campaign that is killed twice."""
    figure, (ax,) = panels(1, width=6.4, height=2.5)
    rows, start = 0, 0.0
    for hours, speed, event in ((3.0, 9_000, "killed"), (4.0, 11_000, "killed"), (3.5, 11_000, "done")):
        steps = np.linspace(0.0, hours, 40)
        batches = rows + np.floor(steps * speed / 1500) * 1500
        ax.step(start + steps, batches, where="post", color=BLUE)
        ax.annotate(event, (start + hours, batches[-1]), xytext=(-42, 6), textcoords="offset points", fontsize=8)
        rows, start = batches[-1], start + hours
        ax.hlines(rows, start, start + 1.0, color=GRAY, ls=":")
        start += 1.0
    ax.set(xlabel="hours", ylabel="rows in the store")
    return figure


def clusters() -> Figure:
    """Draws the two jobs, simulating and training, and the files between them."""
    figure, (ax,) = panels(1, width=7.4, height=2.0)
    ax.set(xlim=(0, 10), ylim=(0, 3))
    ax.axis("off")
    boxes = {
        "worker 1": (0.8, 2.5), "worker 2": (0.8, 1.5), "worker n": (0.8, 0.5), "rd.simulate": (3.0, 1.5),
        "store on disk": (5.1, 1.5), "rd.fit": (7.0, 1.5), "model file": (8.9, 1.5),
    }  # fmt: skip
    for text, (x, y) in boxes.items():
        color = GREEN if text in ("store on disk", "model file") else BLUE
        style = {"boxstyle": "round,pad=0.4", "fc": "white", "ec": color}
        ax.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)
    arrow = {"arrowstyle": "->", "color": GRAY}
    for y in (2.5, 1.5, 0.5):
        ax.annotate("", (2.3, 1.5), (1.5, y), arrowprops=arrow)
    for start, end in ((3.75, 4.35), (5.9, 6.55), (7.45, 8.15)):
        ax.annotate("", (end, 1.5), (start, 1.5), arrowprops=arrow)
    ax.text(1.9, 2.6, "rows", fontsize=8, color=GRAY)
    return figure


def coming_from() -> Figure:
    """Draws exact draws of two moons given x = (0, 0)."""
    rng, n = np.random.default_rng(0), 3_000
    angle, radius = rng.uniform(-np.pi / 2, np.pi / 2, n), 0.1 + 0.01 * rng.normal(size=n)
    crescent = np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)])
    total = np.sqrt(2.0) * crescent[0] * rng.choice([-1.0, 1.0], n)  # theta_0 + theta_1, of either sign
    difference = -np.sqrt(2.0) * crescent[1]  # theta_1 - theta_0
    figure, (ax,) = panels(1, width=3.4, height=3.0)
    ax.plot((total - difference) / 2, (total + difference) / 2, ".", ms=1.2, color=BLUE)
    ax.set(xlabel="theta[0]", ylabel="theta[1]", xlim=(-0.5, 0.5), ylim=(-0.5, 0.5), aspect="equal")
    return figure


def extending() -> Figure:
    """Draws the cosine schedule and the law Beta(3, 2) of the page "Extending"."""
    t = np.linspace(0.0, 1.0, 201)
    figure, (left, right) = panels(2, height=2.5)
    left.plot(t, np.sin(np.pi * t / 2), color=BLUE, label="alpha, cosine")
    left.plot(t, np.cos(np.pi * t / 2), color=ORANGE, label="sigma, cosine")
    left.plot(t, t, ":", color=BLUE, label="alpha, straight")
    left.plot(t, 1 - t, ":", color=ORANGE, label="sigma, straight")
    left.set(xlabel="t")
    left.legend(frameon=False, fontsize=8)
    right.fill_between(t, 12 * t**2 * (1 - t), color=BLUE, alpha=0.3, lw=0)
    right.plot(t, 12 * t**2 * (1 - t), color=BLUE)
    right.set(xlabel="t", ylabel="density of training times", ylim=(0, None))
    return figure


def inside_jax() -> Figure:
    """Draws a learned log density, and draws of NUTS under it and a second measurement."""
    from numpyro.infer import MCMC, NUTS

    prior = {"level": dist.Normal(0.0, 1.0), "slope": dist.Normal(0.0, 1.0)}
    sims = rd.simulate(rd.Problem(prior, line), 10_000, key=0)
    untrained = rd.posterior(sims.layout, net=rd.nets.ResMLP(32, 1))
    model, _ = rd.fit(untrained, sims, key=1, steps=3_000, progress=False)
    log_density = model.log_density(given={"y": [1.1, 1.9, 3.2]})
    level, slope = jnp.meshgrid(jnp.linspace(-0.5, 2.4, 40), jnp.linspace(-0.1, 2.2, 40))
    grid = jax.jit(jax.vmap(log_density))({"level": level.ravel(), "slope": slope.ravel()})
    density = np.exp(np.asarray(grid, float)).reshape(level.shape)

    def potential(values: dict[str, Any]) -> Any:
        return -log_density(values) - dist.Normal(0.5, 0.2).log_prob(values["slope"])

    mcmc = MCMC(NUTS(potential_fn=potential), num_warmup=200, num_samples=300, progress_bar=False)
    mcmc.run(jax.random.key(3), init_params={"level": jnp.array(1.0), "slope": jnp.array(1.0)})
    draws = mcmc.get_samples()
    figure, (ax,) = panels(1, width=4.2, height=3.0)
    ax.contour(level, slope, density, levels=contour_levels(density), colors=BLUE)
    ax.plot(draws["level"], draws["slope"], ".", ms=3, color=ORANGE)
    ax.axhspan(0.3, 0.7, color=GRAY, alpha=0.2, lw=0)
    ax.set(xlabel="level", ylabel="slope")
    return figure


PICTURES: dict[str, Callable[[], Figure]] = {
    "functions": functions, "campaigns": campaigns, "clusters": clusters, "coming_from": coming_from,
    "extending": extending, "hierarchies": hierarchies, "trust": trust, "choices": choices,
    "getting_started": getting_started, "questions": questions, "jax": inside_jax,
}  # fmt: skip


def save(figure: Figure, file: Path) -> None:
    """Writes a figure with few colors, so that the file is small."""
    figure.savefig(file, dpi=DOTS_PER_INCH, facecolor="white")
    with Image.open(file) as image:
        small = image.convert("RGB").quantize(PALETTE)
    small.save(file, optimize=True)


def main() -> None:
    """Draws the pictures that are named, by default all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help=f"some of {', '.join(PICTURES)}")
    FOLDER.mkdir(exist_ok=True)
    with mpl.rc_context({"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}):
        for name in parser.parse_args().names or PICTURES:
            file = FOLDER / f"{name}.png"
            save(PICTURES[name](), file)
            print(f"wrote {file}, {file.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
