"""Transformers and embeddings: what a network may not see changes nothing, and what is alike is treated alike."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest

import retrodict as rd
from conftest import Gaussian
from retrodict.nets import architecture_from_json
from retrodict.nets._blocks import MAX_ELEMENTWISE_PAIRS, attend, rotate
from retrodict.nets._embeddings import windows
from retrodict.nets._written_names import WRITTEN_NAMES
from retrodict.query.tokens import unflatten
from retrodict.roles import ABSENT, GIVEN, LATENT
from retrodict.simulation.rows import Simulations
from retrodict.variables import Layout, Variable


SMALL = {"heads": 2, "head_size": 4}
PARAMETERS = (Variable("a"), Variable("b"))
SERIES = Layout((*PARAMETERS, Variable("x", (6,), kind="data"), Variable("y", (4, 4), kind="data")))
TWO_CHAINS = rd.Dependencies({"x": ["a", "x"], "y": ["b", "y"]})
POINTS = Layout((Variable("a", (2,)), Variable("x", (6,), kind="data")))
PAIRS = rd.Dependencies({"x": ["a"], "x[1]": ["x[0]"], "x[3]": ["x[2]"], "x[5]": ["x[4]"]}, exchangeable={"x": 3})
NETS = {
    "mlp": rd.nets.ResMLP(16, 2),
    "simformer": rd.nets.Simformer(depth=2, **SMALL),
    "flux": rd.nets.Flux1(double=1, single=1, **SMALL),
    "flux joint": rd.nets.Flux1Joint(depth=2, **SMALL),
    "sum": rd.nets.Simformer(depth=2, merge="sum", **SMALL),
    "sinusoidal 1-D": rd.nets.Simformer(depth=2, identity=rd.nets.Sinusoidal1d(), **SMALL),
    "sinusoidal 2-D": rd.nets.Flux1Joint(depth=2, identity=rd.nets.Sinusoidal2d(), **SMALL),
    "rotary 1-D": rd.nets.Flux1(double=1, single=1, identity=rd.nets.Rotary1d(), **SMALL),
    "rotary 2-D": rd.nets.Flux1Joint(depth=2, identity=rd.nets.Rotary2d(), **SMALL),
    "patches": rd.nets.Flux1Joint(depth=2, identity=rd.nets.Rotary2d(), patches={"y": (2, 2)}, **SMALL),
    "convolution": rd.nets.Simformer(depth=2, embed={"y": rd.nets.CNN2d((4, 4), tokens=2, features=8)}, **SMALL),
    "series": rd.nets.ResMLP(16, 2, embed={"x": rd.nets.CNN1d((4,), kernel=3, stride=2, tokens=2, features=8)}),
    "waves": rd.nets.ResMLP(16, 2, embed={"x": rd.nets.Spectrogram(4, 2, 1.0, rd.nets.CNN2d((4,), tokens=1))}),
    "set": rd.nets.Flux1(double=1, single=1, embed={"x": rd.nets.SetEncoder(8, 8)}, **SMALL),
    "coordinates": rd.nets.Simformer(depth=2, coordinates={"x": np.linspace(0, 3, 6)}, patches={"y": (2, 2)}, **SMALL),
}


@dataclasses.dataclass(frozen=True)
class Sum(rd.nets.AbstractEmbedding):
    """Nothing but the numbers themselves."""

    def build(self, variable, *, key):
        return lambda array, seen: array.ravel()


def built(net, layout=SERIES, *, seed=0, law=None, **settings):
    """A model whose weights are all random: as it comes, it says nothing."""
    make = rd.posterior if isinstance(net, rd.nets.Flux1) else rd.joint
    model = make(layout, net=net, key=seed, **settings, **({} if law is None else {"roles": law}))
    leaves, tree = jax.tree.flatten(eqx.filter(model.net, eqx.is_inexact_array))
    keys = jr.split(jr.key(seed + 1), len(leaves))
    wild = [leaf + 0.3 * jr.normal(k, leaf.shape, leaf.dtype) for leaf, k in zip(leaves, keys, strict=True)]
    return dataclasses.replace(model, net=eqx.combine(jax.tree.unflatten(tree, wild), model.net))


@eqx.filter_jit
def said(model, z, roles):
    """The predictions about scaled tokens of the whole layout."""
    ready = model.ready(jnp.asarray(z), jnp.asarray(roles))
    return model.predict(ready.z, ready, jnp.asarray(0.4, ready.z.dtype))


def posterior_roles(layout):
    return np.where(layout.is_parameter, LATENT, GIVEN)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=pytest.mark.slow if n in ("patches", "series", "coordinates", "waves") else [])
        for n in NETS
    ],
)
def test_an_absent_element_counts_exactly_nothing(name, x64):
    """Neither its value nor, by its gradient, a small change of it: the difference is 0 in double precision."""
    model, roles = built(NETS[name]), posterior_roles(SERIES)
    absent = slice(2, 8) if name in ("series", "convolution") else slice(4, 6)
    absent = SERIES.slices["y"] if name == "convolution" else absent
    roles[absent] = ABSENT
    z = np.random.default_rng(0).normal(size=SERIES.size)
    changed = z.copy()
    changed[absent] += 7.0
    first = said(model, z, roles)
    assert np.abs(first[:2]).min() > 1e-3, "the network says nothing at all"
    np.testing.assert_array_equal(first, said(model, changed, roles))
    if name in ("mlp", "simformer"):
        slope = jax.grad(lambda z: said(model, z, roles)[0])(jnp.asarray(z))
        np.testing.assert_array_equal(slope[absent], 0.0)
        assert slope[9] != 0.0


@pytest.mark.parametrize(
    ("name", "edges"),
    [("simformer", "directed"), ("simformer", "undirected"), ("flux", "directed"), ("patches", "undirected")],
)
def test_what_the_edges_hide_counts_exactly_nothing(name, edges, x64):
    """Two chains that do not touch: y says nothing about a, nor x about b."""
    net = dataclasses.replace(NETS[name], edges=edges)
    dependencies = rd.Dependencies({"x": ["a"], "y": ["b"]}) if name == "patches" else TWO_CHAINS
    model, roles = built(net, dependencies=dependencies), posterior_roles(SERIES)
    z = np.random.default_rng(1).normal(size=SERIES.size)
    other = z.copy()
    other[SERIES.slices["y"]] += 3.0
    first, second = said(model, z, roles), said(model, other, roles)
    assert first[0] == second[0]
    assert first[1] != second[1]


@pytest.mark.parametrize("kind", ["simformer", "flux joint", "flux"])
def test_interchangeable_parts_can_change_places(kind, x64):
    """The answer about `a` is preserved, and the answers about the parts of x change places with them."""
    model = built(NETS[kind], POINTS, dependencies=PAIRS)
    z = np.random.default_rng(2).normal(size=POINTS.size)
    moved = np.asarray([0, 1, 6, 7, 2, 3, 4, 5])
    given = said(model, z, posterior_roles(POINTS))[:2]
    np.testing.assert_allclose(given, said(model, z[moved], posterior_roles(POINTS))[:2], atol=1e-10)
    swapped = z.copy()
    swapped[[3, 5]] = z[[5, 3]]  # one number of each of two points: these are other points
    assert np.abs(given - said(model, swapped, posterior_roles(POINTS))[:2]).max() > 1e-6
    if kind != "flux":
        latent = np.full(POINTS.size, LATENT)
        np.testing.assert_allclose(said(model, z, latent)[moved], said(model, z[moved], latent), atol=1e-10)


def test_structure_is_kept_of_what_is_read_as_a_whole(x64):
    """Declared by element, with parts: of an embedded x it says that x depends on a; y, which does not, is hidden."""
    layout = Layout((*POINTS.variables, Variable("b"), Variable("y", (2,), kind="data")))
    structure = rd.Dependencies({**dict(PAIRS.parents), "y": ["b"]}, exchangeable={"x": 3})
    net = dataclasses.replace(NETS["simformer"], embed={"x": rd.nets.SetEncoder(8, 8)})
    model, roles = built(net, layout, dependencies=structure), posterior_roles(layout)
    z = np.random.default_rng(6).normal(size=layout.size)
    x, y, a = z.copy(), z.copy(), slice(0, 2)
    x[layout.slices["x"]] += 1.0
    y[layout.slices["y"]] += 1.0
    first = said(model, z, roles)
    np.testing.assert_array_equal(first[a], said(model, y, roles)[a])
    assert np.abs(first[a] - said(model, x, roles)[a]).min() > 1e-9


def test_interchangeable_parts_are_shuffled_in_training():
    """Every arrangement of three points occurs, and its points stay whole."""
    model = built(rd.nets.ResMLP(4, 1), POINTS, dependencies=PAIRS)
    rows = jnp.asarray([9.0, 8.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    shuffle = model.dependencies.shuffle(POINTS)
    seen = {tuple(np.asarray(rows[shuffle(key)]).tolist()) for key in jr.split(jr.key(0), 200)}
    # six arrangements; the chance that 200 draws miss one is 6 (5/6)^200 < 1e-15
    assert len(seen) == 6
    assert all(row[:2] == (9.0, 8.0) and all(row[i + 1] == row[i] + 1 for i in (2, 4, 6)) for row in seen)


def test_a_set_is_read_in_any_order_and_without_some_of_its_elements(x64):
    model = built(rd.nets.ResMLP(16, 1, embed={"x": rd.nets.SetEncoder(8, 8)}), SERIES)
    z, roles = np.random.default_rng(3).normal(size=SERIES.size), posterior_roles(SERIES)
    moved = np.arange(SERIES.size)
    moved[2:8] = moved[2:8][::-1]
    np.testing.assert_allclose(said(model, z, roles), said(model, z[moved], roles), atol=1e-12)
    fewer = roles.copy()
    fewer[5:8] = ABSENT
    assert np.abs(said(model, z, fewer) - said(model, z, roles))[:2].max() > 1e-4


@pytest.mark.parametrize("embedding", [rd.nets.CNN1d((4,), 2, 1, 2, 4), rd.nets.SetEncoder(4, 4)])
def test_what_is_missing_of_an_embedded_variable_counts_exactly_nothing(embedding, x64):
    model = built(rd.nets.ResMLP(16, 1, embed={"x": embedding}), SERIES)
    z, roles = np.random.default_rng(3).normal(size=SERIES.size), posterior_roles(SERIES)
    block = SERIES.slices["x"]
    roles[block.start + 1], other = ABSENT, z.copy()
    other[block.start + 1] = 100.0
    np.testing.assert_array_equal(said(model, z, roles), said(model, other, roles))
    # a value of zero is another thing than none
    zero, seen = z.copy(), roles.copy()
    zero[block.start + 1], seen[block.start + 1] = 0.0, GIVEN
    assert np.abs(said(model, zero, seen) - said(model, zero, roles))[: block.start].max() > 1e-6


def test_rotated_scores_see_differences_of_places_only(x64):
    q, k = jr.normal(jr.key(0), (2, 1, 8)), jr.normal(jr.key(1), (2, 1, 8))
    speed = np.asarray([1.0, 0.3, 0.01])  # three of four pairs are turned

    def score(i, j):
        angles = jnp.asarray([i * speed, j * speed])
        return jnp.sum(rotate(q, angles)[0] * rotate(k, angles)[1])

    np.testing.assert_allclose(score(2.0, 5.0), score(12.0, 15.0), rtol=1e-9)
    assert abs(score(2.0, 5.0) - score(2.0, 9.0)) > 1e-3


@pytest.mark.parametrize("tokens", [3, 9])
def test_attention_is_the_average_that_it_says(tokens, x64):
    """Against its definition in numpy, for so few tokens that products are elementwise, and for more."""
    assert (tokens**2 <= MAX_ELEMENTWISE_PAIRS) == (tokens == 3)
    q, k, v = (np.asarray(jr.normal(jr.key(i), (tokens, 2, 4))) for i in range(3))
    mask = np.tril(np.ones((tokens, tokens), bool))
    mask[2, 0] = False
    found = attend(jnp.asarray(q), jnp.asarray(k), jnp.asarray(v), jnp.asarray(mask))
    for t in range(tokens):
        for h in range(2):
            weights = np.where(mask[t], np.exp(k[:, h] @ q[t, h] / 2.0), 0.0)
            expected = (weights / weights.sum()) @ v[:, h]
            np.testing.assert_allclose(found[t, 4 * h : 4 * h + 4], expected, rtol=1e-12)


def test_patches_hold_neighboring_elements():
    net = built(NETS["patches"]).net
    run = next(run for run in net.tokenizer.runs if run.variable is not None)
    image = np.arange(16).reshape(4, 4)
    cut = run.cut(image.ravel())
    np.testing.assert_array_equal(cut[1], [2, 3, 6, 7])
    np.testing.assert_array_equal(run.join(cut), image.ravel())


def test_a_spectrogram_shows_white_noise_as_one_and_a_wave_at_its_frequency(x64):
    """Power of white noise has mean 1 everywhere; that of cos(2 pi f t) of amplitude a lies at f, a^2 window / 6."""
    embedding = rd.nets.Spectrogram(64, 16, 0.5, Sum())
    module = embedding.build(Variable("x", (4096, 2), kind="data"), key=jr.key(0))
    noise = jr.normal(jr.key(1), (4096, 2))
    power = np.expm1(np.asarray(module(noise, jnp.ones((4096, 2), bool))).reshape(253, 16, 2))
    # 253 frames of which each fourth is independent, two channels: 128 exponential variables, sd .09; 5 sd
    np.testing.assert_allclose(power.mean(axis=(0, 2))[1:], 1.0, atol=0.45)
    np.testing.assert_allclose(power.mean(), 1.0, atol=0.1)
    wave = 3.0 * jnp.cos(2 * np.pi * 5 / 64 * jnp.arange(4096))[:, None] * jnp.asarray([1.0, 0.0])
    power = np.expm1(np.asarray(module(wave, jnp.ones((4096, 2), bool))).reshape(253, 16, 2))
    assert (power[..., 0].argmax(axis=1) == 4).all()
    assert power[..., 1].max() < 1e-20
    # the Hann window has a sum of half its length and a sum of squares of three eighths of it
    np.testing.assert_allclose(power[:, 4, 0], 9.0 / 4 * 64 * (1 / 4) / (3 / 8), rtol=1e-2)


@pytest.mark.parametrize(("shape", "kernel", "stride"), [((9, 2), 3, 2), ((8, 2), 8, 4), ((5, 6, 2), 3, 2)])
def test_windows_make_a_convolution(shape, kernel, stride, x64):
    """Against XLA's convolution with the same padding."""
    axes = len(shape) - 1
    x = jr.normal(jr.key(0), shape, jnp.float64)
    weight = jr.normal(jr.key(1), (4, *[kernel] * axes, shape[-1]), jnp.float64)
    found = windows(x, kernel, stride) @ weight.reshape(4, -1).T
    exact = jax.lax.conv_general_dilated(
        jnp.moveaxis(x, -1, 0)[None], jnp.moveaxis(weight, -1, 1), (stride,) * axes, padding="SAME"
    )[0]
    np.testing.assert_allclose(found, jnp.moveaxis(exact, 0, -1), atol=1e-12)


@pytest.mark.parametrize(
    "name",
    [pytest.param("simformer", marks=pytest.mark.slow), "flux joint", pytest.param("flux", marks=pytest.mark.slow)],
)
def test_half_precision_agrees(name):
    """bfloat16 has 8 bits: a product is off by 2^-9 of itself, the answers by .03 where the data's spread is 1."""
    exact = built(NETS[name])
    halved = built(dataclasses.replace(NETS[name], half=True))
    z, roles = np.random.default_rng(4).normal(size=SERIES.size).astype(np.float32), posterior_roles(SERIES)
    first, second = said(exact, z, roles)[:2], said(halved, z, roles)[:2]
    assert first.dtype == second.dtype == jnp.float32
    np.testing.assert_allclose(first, second, atol=0.03)
    assert np.abs(first - second).max() > 0.0
    assert all(leaf.dtype != jnp.bfloat16 for leaf in jax.tree.leaves(eqx.filter(halved.net, eqx.is_array)))


@pytest.mark.parametrize("name", NETS)
def test_settings_survive_a_file(name):
    net = NETS[name]
    assert architecture_from_json(json.loads(json.dumps(net.to_json()))) == net


WRITTEN = {  # what files of version 0.1 say, whatever the classes are called today
    "ResMLP": rd.nets.ResMLP(),
    "PointMLP": rd.nets.PointMLP(),
    "Simformer": rd.nets.Simformer(),
    "Flux1": rd.nets.Flux1(),
    "Flux1Joint": rd.nets.Flux1Joint(),
    "PlateTransformer": rd.nets.PlateTransformer(),
    "CNN1d": rd.nets.CNN1d(),
    "CNN2d": rd.nets.CNN2d(),
    "Spectrogram": rd.nets.Spectrogram(),
    "SetEncoder": rd.nets.SetEncoder(),
    "Learned": rd.nets.Learned(),
    "Sinusoidal1d": rd.nets.Sinusoidal1d(),
    "Sinusoidal2d": rd.nets.Sinusoidal2d(),
    "Rotary1d": rd.nets.Rotary1d(),
    "Rotary2d": rd.nets.Rotary2d(),
}


def test_files_keep_the_names_of_settings():
    assert {name: settings.to_json()["name"] for name, settings in WRITTEN.items()} == {name: name for name in WRITTEN}
    assert {name: type(settings) for name, settings in WRITTEN.items()} == WRITTEN_NAMES
    own = rd.nets.ResMLP(embed={"x": Sum()})  # a user's class stands there under its own name
    assert own.to_json()["embed"] == [["x", {"name": "Sum"}]]
    assert architecture_from_json(own.to_json()) == own
    for name, message in (
        ("Resnet", "'Resnet', which this version does not know"),
        ("CNN1d", "'CNN1d', which is none"),
    ):
        with pytest.raises(rd.FileError, match=message):
            architecture_from_json({"name": name})


@pytest.mark.parametrize("name", ["convolution", "patches"])
def test_a_model_survives_a_file(name, tmp_path):
    model = built(NETS[name], dependencies=rd.Dependencies({"x": ["a"], "y": ["b"]}))
    loaded = rd.load(rd.save(model, tmp_path / "model.safetensors"))
    given = {"x": np.zeros(6), "y": np.ones((4, 4))}
    assert loaded.dependencies == model.dependencies
    first, second = (m.sample(5, given=given, key=1) for m in (model, loaded))
    assert sorted(first) == ["a", "b"]
    for drawn in first:
        np.testing.assert_array_equal(first[drawn], second[drawn])


@pytest.mark.parametrize(
    "name", ["patches", *(pytest.param(n, marks=pytest.mark.slow) for n in ("flux", "convolution"))]
)
def test_a_silent_network_is_standard_normal(name):
    """As built, a network says nothing, and a path that knows the linear answer makes that N(0, I)."""
    make = rd.posterior if name == "flux" else rd.joint
    model, values = make(SERIES, net=NETS[name]), {"a": np.asarray([0.0, 1.5]), "b": np.asarray([-0.5, 2.0])}
    given = {"x": np.zeros(6), "y": np.ones((4, 4))}
    exact = -0.5 * (values["a"] ** 2 + values["b"] ** 2) - np.log(2 * np.pi)
    # sixteen midpoint steps leave .0033
    np.testing.assert_allclose(model.log_prob(values, given=given), exact, atol=0.005)
    draws = model.sample(4000, given=given, key=0)
    # the mean of 4000 has a standard deviation of .016 and the standard deviation one of .011: five of each, 1e-6
    assert abs(draws["a"].mean()) < 0.08
    assert abs(draws["b"].std() - 1.0) < 0.06


class Mean(eqx.Module):
    def __call__(self, array):
        return jnp.stack([jnp.mean(array), jnp.std(array)])


def test_an_equinox_module_of_ones_own_is_an_embedding(tmp_path):
    model = built(rd.nets.ResMLP(16, 1, embed={"y": Mean()}))
    z, roles = np.random.default_rng(5).normal(size=SERIES.size), posterior_roles(SERIES)
    moved = np.arange(SERIES.size)
    moved[8:] = moved[8:][::-1]
    np.testing.assert_allclose(said(model, z, roles), said(model, z[moved], roles), atol=1e-5)
    other = z.copy()
    other[8:] = 2.0 * z[8:] + 1.0
    assert np.abs(said(model, z, roles) - said(model, other, roles))[:2].max() > 1e-4
    with pytest.raises(rd.FileError, match=r"an embedding by Mean cannot be written to a file; make it a subclass of"):
        rd.save(model, tmp_path / "model.safetensors")


REFUSED = {
    "random roles for Flux1": (
        lambda: rd.joint(SERIES, net=rd.nets.Flux1()),
        rd.QueryError,
        "Flux1 keeps what is given and what is asked in two streams",
    ),
    "another question": (
        lambda: rd.posterior(SERIES, net=NETS["flux"]).sample(1, given={"a": 0.0, "b": 0.0}, key=0),
        rd.QueryError,
        "Flux1 was built for one question",
    ),
    "an unknown variable": (
        lambda: rd.joint(SERIES, net=rd.nets.Simformer(embed={"z": rd.nets.CNN1d()})),
        rd.DataError,
        "`embed` names 'z'",
    ),
    "nothing left": (
        lambda: rd.joint(Layout((Variable("y", (4, 4)),)), net=rd.nets.ResMLP(embed={"y": rd.nets.CNN2d()})),
        rd.DataError,
        "every variable is embedded",
    ),
    "a shape": (
        lambda: rd.joint(SERIES, net=rd.nets.ResMLP(embed={"a": rd.nets.CNN1d()})),
        rd.DataError,
        r"CNN1d reads variables of the shape \(length,\) or \(length, channels\), but 'a' has \(\)",
    ),
    "no embedding": (
        lambda: rd.nets.ResMLP(embed={"x": len}),
        rd.DataError,
        "`embed` maps 'x' to an embedding such as rd.nets.CNN1d",
    ),
    "too short for a spectrogram": (
        lambda: rd.joint(SERIES, net=rd.nets.ResMLP(embed={"x": rd.nets.Spectrogram()})),
        rd.DataError,
        r"Spectrogram reads variables of the shape \(length,\) or \(length, channels\) of at least 256 samples",
    ),
    "a patch": (
        lambda: rd.joint(SERIES, net=rd.nets.Simformer(patches={"y": (3, 2)})),
        rd.DataError,
        "rows and columns must be multiples of the patch's",
    ),
    "coordinates": (
        lambda: rd.joint(SERIES, net=rd.nets.Simformer(coordinates={"x": [1.0, 2.0]})),
        rd.DataError,
        "the coordinates of 'x' must be finite and have the shape",
    ),
    "axes": (
        lambda: rd.joint(POINTS, net=rd.nets.Simformer(identity=rd.nets.Rotary2d())),
        rd.DataError,
        "Rotary2d tells elements apart by their place in 2 dimensions",
    ),
    "asking what is embedded": (
        lambda: rd.joint(SERIES, net=NETS["convolution"]).sample(1, of=["y"], key=0),
        rd.QueryError,
        "'y' is read as a whole by an embedding; it can be given, not asked",
    ),
    "a part of what is embedded": (
        lambda: rd.joint(SERIES, net=rd.nets.ResMLP(embed={"y": Mean()})).sample(
            1, given={"y": np.where(np.eye(4), np.nan, 1.0)}, key=0
        ),
        rd.QueryError,
        "give all of it, or leave it out",
    ),
    "dependencies of another layout": (
        lambda: rd.joint(SERIES, dependencies=rd.Dependencies({"x": ["theta"]})),
        rd.DataError,
        "theta",
    ),
    "heads": (lambda: rd.nets.Simformer(heads=0), rd.DataError, "Simformer needs a positive `heads`, got 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_wrong_network_is_refused_with_the_cure(case):
    call, error, message = REFUSED[case]
    with pytest.raises(error, match=message):
        call()


def test_an_embedded_variable_is_never_asked_in_training():
    law = rd.roles.Observed(rd.roles.random_roles(), ("x", "y"), (1, 0))
    roles = np.asarray(jax.vmap(lambda key: law.draw(key, SERIES))(jr.split(jr.key(0), 4000)))
    x, y = roles[:, SERIES.slices["x"]], roles[:, SERIES.slices["y"]]
    assert not (roles[:, 2:] == LATENT).any()
    assert ((roles[:, :2] == LATENT).any(axis=1)).all()
    assert (y == y[:, :1]).all()
    counts = (x == GIVEN).sum(axis=1)
    given = (x == GIVEN).any(axis=1)
    # in half of the rows the count is uniform on 0 to 6: none with probability 1/14, 1 to 5 as often, else all six
    expected = np.asarray([1 / 13] * 5 + [8 / 13]) * given.sum()
    found = np.bincount(counts[given], minlength=7)[1:]
    # chi-square with 5 degrees of freedom: above 30 with probability 1.5e-5
    assert ((found - expected) ** 2 / expected).sum() < 30.0


PATHS = list(rd.paths.METHODS)
TRAINED = ["mlp", "simformer", "flux joint", "flux", "rotary 1-D"]


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("name", TRAINED)
def test_every_network_on_every_path_learns_a_gaussian(name, path):
    """A posterior of three numbers given three, against the closed form: means within .1 sd, covariance within 10 %."""
    layout = Layout((Variable("a"), Variable("b", (2,)), Variable("c", (3,), kind="data")))
    exact = Gaussian(6, 3)
    sims = Simulations(unflatten(layout, exact.draw(20_000, 1), layout.names), layout)
    net = rd.nets.ResMLP(64, 2) if name == "mlp" else dataclasses.replace(NETS[name], head_size=8)
    model, _ = rd.fit(
        rd.posterior(layout, net=net, path=rd.paths.METHODS[path]()),
        sims,
        key=0,
        steps=3000,
        batch_size=256,
        progress=False,
    )
    far, wide = [], []
    for seed in range(5):
        c = exact.draw(1, 100 + seed)[0, 3:]
        mean, cov = exact.condition([0, 1, 2], [3, 4, 5], c)
        draws = model.sample(20_000, given={"c": c}, key=seed)
        flat = np.column_stack([draws["a"], draws["b"]])
        far.append((flat.mean(axis=0) - mean) / np.sqrt(np.diag(cov)))
        wide.append(np.linalg.norm(np.cov(flat.T) - cov) / np.linalg.norm(cov))
    far, wide = float(np.sqrt(np.mean(np.square(far)))), float(np.mean(wide))
    print(f"\n{name}, {path}: means off by {far:.3f} sd, covariance by {100 * wide:.1f} %")
    assert far < 0.1
    assert wide < 0.1
