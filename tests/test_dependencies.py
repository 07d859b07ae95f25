"""Edge masks against d-separation, decided by brute force in the ancestral moral graph, for every small graph and role.

A mask that hides what an element needs trains without complaint and answers wrongly, so nothing here is sampled where
it can be enumerated: all 1024 directed graphs of five nodes (of fewer, too: nodes without edges that are absent), each
under a relabeling of its own so that no result leans on the order of the indices, times all 3^5 roles.
"""

import dataclasses
import itertools
import json
import re

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest

import retrodict as rd
from retrodict.problem.dependencies import Dependencies, Edges, Graph, directed, undirected
from retrodict.roles import ABSENT, GIVEN, LATENT, Partial
from retrodict.variables import Layout, Variable


N = 5


def layout(**sizes):
    """`x...` is data, everything else parameters."""
    kinds = {name: "data" if name.startswith("x") else "parameter" for name in sizes}
    return Layout(tuple(Variable(n, s if isinstance(s, tuple) else (s,), kind=kinds[n]) for n, s in sizes.items()))


def spread(dependencies, where, roles, kind="directed"):
    return np.asarray(jax.jit(dependencies.edges(where, kind))(jnp.asarray(roles)))


def looks_at(mask, i):
    return set(np.flatnonzero(mask[i])) - {i}


# ---- the truth: d-separation, vectorized over any number of graphs


def reach(edges):
    for k in range(edges.shape[-1]):
        edges = edges | (edges[..., :, k, None] & edges[..., None, k, :])
    return edges


def separated(adjacency, one, others, known):
    """Is `one` independent of `others` given `known` (sets `(..., n)`): no path round `known` in the moral graph?"""
    ancestors = reach(adjacency | np.eye(adjacency.shape[-1], dtype=bool))  # [node, ancestor]
    in_it = ((one | others | known)[..., :, None] & ancestors).any(-2)
    graph = adjacency & in_it[..., :, None] & in_it[..., None, :]
    moral = graph | np.swapaxes(graph, -1, -2)
    for child in range(adjacency.shape[-1]):
        moral = moral | (graph[..., child, :, None] & graph[..., child, None, :])
    open_ = reach(moral & ~known[..., :, None] & ~known[..., None, :])
    return ~((one & ~known)[..., :, None] & (others & ~known)[..., None, :] & open_).any((-1, -2))


@pytest.fixture(scope="module")
def every():
    """Adjacency `(1024, 1, n, n)`, roles `(1, 243, n)` and both masks `(1024, 243, n, n)`."""
    rng = np.random.default_rng(0)
    below = np.tril_indices(N, -1)
    adjacency = np.zeros((1024, N, N), bool)
    adjacency[:, below[0], below[1]] = list(itertools.product([False, True], repeat=len(below[0])))
    for matrix in adjacency:
        matrix[:] = matrix[np.ix_(*[rng.permutation(N)] * 2)]
    roles = np.asarray(list(itertools.product([ABSENT, LATENT, GIVEN], repeat=N)))
    graphs = [Graph.of(matrix) for matrix in adjacency]
    stacked = Graph(*(np.stack(field) for field in zip(*graphs, strict=True)))

    def masks(graph, roles):
        return directed(graph, roles), undirected(graph, roles)

    both = jax.jit(jax.vmap(jax.vmap(masks, (None, 0)), (0, None)))(stacked, roles)
    present = roles != ABSENT
    among = (present[:, :, None] & present[:, None, :]) & ~np.eye(N, dtype=bool)
    return adjacency[:, None], roles[None], *(np.asarray(mask) & among for mask in both)


def levels(mask, latent):
    """The place of each latent node in the order of the mask, the first out first; -1 when it runs in circles."""
    inner = mask & latent[..., :, None] & latent[..., None, :]  # v looks at whoever leaves later
    place = np.zeros(inner.shape[:-1], int)
    for _ in range(N):
        later = np.where(inner, place[..., :, None] + 1, 0).max(-2)
        place, settled = np.maximum(place, later), (later <= place).all(-1)
    return np.where(settled[..., None], place, -1)


def test_each_latent_element_is_independent_of_what_it_does_not_look_at(every):
    """Given its row, v is independent of all given elements and of the latent ones that leave later or with it."""
    adjacency, roles, mask, _ = every
    latent, given = roles == LATENT, roles == GIVEN
    place = levels(mask, latent)
    assert (place >= 0).all(), "the latent elements look at each other in a circle"
    # a total order that agrees with the mask: by level, then by index
    key = place * N + np.arange(N)
    for v in range(N):
        later = (given | (latent & (key > key[..., v, None]))) & (np.arange(N) != v)
        one = np.broadcast_to(np.arange(N) == v, later.shape)
        fine = separated(adjacency, one, later & ~mask[..., v, :], mask[..., v, :])
        bad = ~fine & latent[..., v]
        assert not bad.any(), f"{bad.sum()} masks hide what node {v} needs"


def test_no_edge_can_be_spared_where_every_latent_element_is_informed(every):
    """Webb et al.'s minimality: with a given descendant below every latent one, each edge carries dependence."""
    adjacency, roles, mask, _ = every
    latent, given = roles == LATENT, roles == GIVEN
    below = np.swapaxes(reach(adjacency), -1, -2)
    informed = (~latent | (below & given[..., None, :]).any(-1)).all(-1) & (latent | given).all(-1) & latent.any(-1)
    assert informed.sum() > 5_000
    graph, question = np.nonzero(informed)
    adjacency, mask, latent = adjacency[graph, 0], mask[graph, question], latent[0, question]
    for v, j in itertools.permutations(range(N), 2):
        one, other = (np.broadcast_to(np.arange(N) == k, latent.shape) for k in (v, j))
        spare = separated(adjacency, one, other, mask[:, v] & ~other)
        assert not (spare & mask[:, v, j] & latent[:, v]).any()


def test_the_undirected_mask_is_the_markov_network_of_the_present(every):
    """i and j are tied exactly where they are dependent given all other present elements."""
    adjacency, roles, _, mask = every
    present = roles != ABSENT
    for i, j in itertools.combinations(range(N), 2):
        one, other = (np.broadcast_to(np.arange(N) == k, mask.shape[:-1]) for k in (i, j))
        rest = np.broadcast_to(present & ~one & ~other, one.shape)
        tied = ~separated(adjacency, one, other, rest) & present[..., i] & present[..., j]
        np.testing.assert_array_equal(mask[..., i, j], tied)
        np.testing.assert_array_equal(mask[..., j, i], tied)


def test_given_elements_and_plain_questions_keep_the_graph(every):
    adjacency, roles, mask, _ = every
    present = roles != ABSENT
    wanted = adjacency & present[..., None, :] & present[..., :, None]
    given = np.broadcast_to(roles == GIVEN, mask.shape[:-1])
    np.testing.assert_array_equal(mask[given], wanted[given])
    plain = np.broadcast_to((roles == LATENT).all(-1), mask.shape[:-2])
    np.testing.assert_array_equal(mask[plain], wanted[plain])
    # absent elements with nothing present below them change nothing either
    below = np.swapaxes(reach(adjacency), -1, -2)
    ancestral = ~(below & ~present[..., :, None] & present[..., None, :]).any((-1, -2)) & ~(roles == GIVEN).any(-1)
    np.testing.assert_array_equal(mask[ancestral], wanted[ancestral])


# ---- the published algorithm, word for word, for graphs too large to enumerate


def published(adjacency, roles):
    """METHODS of Simformer: min_faithful, in sets; no absent elements."""
    n = len(adjacency)
    parents = [set(np.flatnonzero(adjacency[i])) for i in range(n)]
    children = [set(np.flatnonzero(adjacency[:, i])) for i in range(n)]
    near = [parents[i] | children[i] for i in range(n)]
    for pair in parents:
        for a, b in itertools.permutations(pair, 2):
            near[a].add(b)
    rows, marked = {}, set()
    latent = {i for i in range(n) if roles[i] == LATENT}
    frontier = {i for i in latent if not children[i] & latent}
    while frontier:

        def cost(v):
            free = near[v] - marked
            fill = sum(b not in near[a] for a, b in itertools.combinations(free, 2))
            return fill, -len(parents[v] & marked), -v

        v = min(frontier, key=cost)
        rows[v] = near[v] - marked
        for a, b in itertools.permutations(rows[v], 2):
            near[a].add(b)
        marked.add(v)
        frontier.remove(v)
        frontier |= {p for p in parents[v] & latent - marked if not children[p] & latent - marked}
    if GIVEN not in roles:
        rows = {}
    return np.asarray([[j in rows.get(i, parents[i]) for j in range(n)] for i in range(n)])


def random_graphs(n, count, seed):
    rng = np.random.default_rng(seed)
    for _ in range(count):
        matrix = np.tril(rng.random((n, n)) < rng.uniform(0.1, 0.6), -1)
        yield matrix[np.ix_(*[rng.permutation(n)] * 2)], rng.choice([LATENT, GIVEN], n)


@pytest.mark.parametrize(("n", "count"), [(8, 300), (35, 20)], ids=["one word", "two words"])
def test_the_masks_are_those_of_the_published_algorithm(n, count):
    cases = list(random_graphs(n, count, seed=1))
    graph = Graph(*(np.stack(f) for f in zip(*(Graph.of(a) for a, _ in cases), strict=True)))
    found = jax.jit(jax.vmap(directed))(graph, np.stack([roles for _, roles in cases]))
    np.testing.assert_array_equal(found, [published(*case) for case in cases])


def test_beyond_64_tokens_the_rows_still_hide_nothing():
    """There another order is taken; any elimination is valid, and this says that it is one. 70 tokens in all roles."""
    n = 70
    (adjacency, _), *_ = random_graphs(n, 1, seed=3)
    adjacency &= np.random.default_rng(4).random((n, n)) < 0.1  # sparse, or every row is full and nothing is shown
    roles = np.random.default_rng(5).choice([ABSENT, LATENT, GIVEN], n)
    mask = np.asarray(jax.jit(Edges("directed", adjacency))(jnp.asarray(roles))) & ~np.eye(n, dtype=bool)
    latent, hidden = roles == LATENT, 0
    inner, left, order = mask & latent[:, None] & latent, set(np.flatnonzero(latent)), []
    while left:
        free = [v for v in left if not any(inner[u, v] for u in left)]
        assert free, "the latent elements look at each other in a circle"
        order.append(free[0])
        left.remove(free[0])
    for place, v in enumerate(order):
        later = roles == GIVEN
        later[order[place + 1 :]] = True
        assert separated(adjacency, np.arange(n) == v, later & ~mask[v], mask[v])
        hidden += (later & ~mask[v]).sum()
    assert hidden > n


# ---- worked by hand


def slcp():
    """Five parameters, four points of two numbers, of which the second depends on the first."""
    pairs = {f"x[{i},1]": [f"x[{i},0]"] for i in range(4)}
    return Dependencies({"x": ["theta"]} | pairs, exchangeable={"x": 4}), layout(theta=5, x=(4, 2))


def test_slcp_by_hand():
    dependencies, where = slcp()
    posterior = spread(dependencies, where, [LATENT] * 5 + [GIVEN] * 8)
    for i in range(5):  # every theta at all data, and at the thetas before it
        assert looks_at(posterior, i) == set(range(i)) | set(range(5, 13))
    for k in range(4):
        assert looks_at(posterior, 5 + 2 * k) == set(range(5))
        assert looks_at(posterior, 6 + 2 * k) == {*range(5), 5 + 2 * k}
    likelihood = spread(dependencies, where, [GIVEN] * 5 + [LATENT] * 8)
    np.testing.assert_array_equal(likelihood, dependencies.adjacency(where) | np.eye(13, dtype=bool))
    joint = spread(dependencies, where, [LATENT] * 13)
    np.testing.assert_array_equal(joint, likelihood)
    moral = spread(dependencies, where, [LATENT] * 13, "undirected")
    assert looks_at(moral, 5) == {*range(5), 6}
    assert looks_at(moral, 0) == set(range(1, 13))


def test_a_markov_chain_by_hand():
    """Backwards from the end, state i needs the state before it and the observations from i on."""
    n = 6
    chain = {f"s[{i}]": [f"s[{i - 1}]"] for i in range(1, n)} | {f"x[{i}]": [f"s[{i}]"] for i in range(n)}
    mask = spread(Dependencies(chain), layout(s=n, x=n), [LATENT] * n + [GIVEN] * n)
    for i in range(n):
        assert looks_at(mask, i) == ({i - 1} if i else set()) | set(range(n + i, 2 * n))


def test_a_tree_by_hand():
    tree = {"s[1]": ["s[0]"], "s[2]": ["s[0]"], "x[0]": ["s[1]"], "x[1]": ["s[1]"], "x[2]": ["s[2]"], "x[3]": ["s[2]"]}
    mask = spread(Dependencies(tree), layout(s=3, x=4), [LATENT] * 3 + [GIVEN] * 4)
    assert [looks_at(mask, i) for i in range(3)] == [{3, 4, 5, 6}, {0, 3, 4}, {0, 5, 6}]


@pytest.mark.parametrize("kind", ["dense", "undirected", "directed"])
def test_dependence_flows_through_an_absent_element(kind):
    """a -> b -> c without b: a needs c. a -> c <- b without c: nothing ties a to b."""
    where = layout(a=(), b=(), xc=())
    mask = spread(Dependencies({"b": "a", "xc": "b"}), where, [LATENT, ABSENT, GIVEN], kind)
    assert mask[0, 2]
    assert not mask[1, [0, 2]].any()
    assert not mask[[0, 2], 1].any()
    collider = spread(Dependencies({"xc": ["a", "b"]}), where, [LATENT, GIVEN, ABSENT], kind)
    assert collider[0, 1] == (kind == "dense")
    assert collider.diagonal().all()


def test_a_chain_with_an_absent_state_is_still_taken_from_its_end():
    """s2 -> s1 -> s0, numbered backwards so that the tie-break alone would begin at the wrong end."""
    chain = {"s[1]": ["s[2]"], "s[0]": ["s[1]"]} | {f"x[{i}]": [f"s[{i}]"] for i in range(3)}
    mask = spread(Dependencies(chain), layout(s=3, x=3), [LATENT, ABSENT, LATENT] + [GIVEN] * 3)
    assert looks_at(mask, 0) == {2, 3, 4}
    assert looks_at(mask, 2) == {3, 4, 5}


def test_nothing_given_and_an_absent_element_between():
    mask = spread(Dependencies({"b": "a", "xc": "b"}), layout(a=(), b=(), xc=()), [LATENT, ABSENT, LATENT])
    assert looks_at(mask, 2) == {0}
    assert looks_at(mask, 0) == set()


def test_dense_edges_and_double_precision(x64):
    where = layout(a=3, x=2)
    roles = [GIVEN, ABSENT, LATENT, LATENT, GIVEN]
    mask = spread(Dependencies(), where, roles, "dense")
    np.testing.assert_array_equal(mask, [[(i != 1 and j != 1) or i == j for j in range(5)] for i in range(5)])
    assert (spread(Dependencies(), where, roles) == np.eye(5)).all()


# ---- how they are written


def test_names_and_elements():
    where = layout(a=(), b=(2, 2), x=3)
    found = Dependencies({"b": ["a"], "b[1,0]": ["b[1]"], "x": ["b[3]", "x"], "x[0]": "a"}).adjacency(where)
    edges = {(int(i), int(j)) for i, j in np.argwhere(found)}
    assert edges == {(1, 0), (2, 0), (3, 0), (4, 0), (3, 2), (5, 4), (6, 4), (7, 4), (6, 5), (7, 5), (7, 6), (5, 0)}


def test_a_matrix_says_the_same_and_may_order_variables_its_own_way():
    dependencies, where = slcp()
    matrix = dependencies.adjacency(where)
    np.testing.assert_array_equal(Dependencies.from_matrix(matrix).adjacency(where), matrix)
    turned = np.roll(np.roll(matrix, 8, axis=0), 8, axis=1)  # x first
    again = Dependencies.from_matrix(turned | np.eye(13, dtype=bool), names=["x", "theta"])
    np.testing.assert_array_equal(again.adjacency(where), matrix)


@pytest.mark.parametrize(
    "dependencies",
    [slcp()[0], Dependencies(), Dependencies.from_matrix([[0, 0], [1, 0]], ["x", "a"], {"x": 1})],
    ids=["names", "none", "matrix"],
)
def test_dependencies_survive_json(dependencies):
    again = Dependencies.from_json(json.loads(json.dumps(dependencies.to_json())))
    assert again == dependencies
    assert hash(again) == hash(dependencies)
    assert dataclasses.replace(again, exchangeable={"y": 2}).exchangeable == (("y", 2),)


def test_a_numpyro_model_is_read_off_its_trace():
    def model(n):
        mu = numpyro.sample("mu", dist.Normal(0.0, 1.0))
        tau = numpyro.sample("tau", dist.HalfNormal(1.0))
        middle = numpyro.deterministic("middle", 2.0 * mu)
        with numpyro.plate("sites", n):
            eta = numpyro.sample("eta", dist.Normal(middle, 1.0))
        numpyro.sample("free", dist.Normal(0.0, jnp.ones(n)).to_event(1))
        numpyro.sample("x", dist.MultivariateNormal(eta * tau, jnp.eye(n)), obs=jnp.zeros(n))

    found = Dependencies.from_numpyro(model, 2)
    by_hand = Dependencies({"eta": ["mu"], "x": ["tau", "eta", "x"]})
    where = layout(mu=(), tau=(), eta=2, free=2, x=2)
    np.testing.assert_array_equal(found.adjacency(where), by_hand.adjacency(where))


def test_a_problem_tells_its_prior_and_assumes_the_rest():
    problem = rd.Problem(
        prior={
            "mu": dist.Normal(0.0, 1.0),
            "eta": lambda mu: dist.Normal(mu, jnp.ones(2)),
            "nu": dist.MultivariateNormal(jnp.zeros(2), jnp.eye(2)),
        },
        simulator=lambda key, mu, eta, nu: {"y": eta, "z": mu},
    )
    where = problem.layout
    by_hand = Dependencies(
        {"eta": ["mu"], "nu": ["nu"], "y": ["mu", "eta", "nu", "y"], "z": ["mu", "eta", "nu", "y", "z"]}
    )
    np.testing.assert_array_equal(Dependencies.of(problem).adjacency(where), by_hand.adjacency(where))


def test_a_problem_with_a_function_in_its_prior_tells_its_parents():
    grid = jnp.linspace(0.0, 1.0, 5)
    problem = rd.Problem(
        {"m": dist.Normal(), "f": rd.Function(lambda m: dist.Normal(m * jnp.ones(5), 1.0).to_event(1), grid, 3)},
        lambda key, m, f: {"y": f[0]},
    )
    parents = dict(Dependencies.of(problem).parents)
    assert parents == {"m": (), "f": ("m",), "y": ("m", "f", "y")}


# ---- interchangeable parts


def test_shuffling_moves_whole_parts_and_keeps_the_graph():
    dependencies, where = slcp()
    keys = jax.random.split(jax.random.key(0), 400)
    found = np.asarray(jax.jit(jax.vmap(dependencies.shuffle(where)))(keys))
    assert (found[:, :5] == np.arange(5)).all()
    pairs = found[:, 5:].reshape(-1, 4, 2) - 5
    assert (pairs[..., 0] % 2 == 0).all()
    assert (pairs[..., 1] == pairs[..., 0] + 1).all()
    # all 24 orders: one is missing from 400 fair draws with probability 24 (23/24)^400 = 1e-6
    assert len(np.unique(pairs[..., 0], axis=0)) == 24
    adjacency = dependencies.adjacency(where)
    for p in found[:20]:
        np.testing.assert_array_equal(adjacency[np.ix_(p, p)], adjacency)


def test_interchangeable_parts_share_their_identities():
    dependencies, where = slcp()
    np.testing.assert_array_equal(dependencies.identity(where), [0, 1, 2, 3, 4] + [5, 6] * 4)
    two = Dependencies(exchangeable={"a": 2, "x": 3})
    np.testing.assert_array_equal(two.identity(layout(a=2, b=2, x=3)), [0, 0, 1, 2, 3, 3, 3])
    assert (Dependencies().shuffle(where)(jax.random.key(0)) == np.arange(13)).all()


def test_masks_of_a_batch_are_those_of_its_rows():
    dependencies, where = slcp()
    edges = dependencies.edges(where, "directed")
    roles = jax.vmap(lambda k: Partial().draw(k, where))(jax.random.split(jax.random.key(0), 8))
    batch, single = jax.jit(jax.vmap(edges))(roles), jax.jit(edges)
    np.testing.assert_array_equal(batch, [single(row) for row in roles])
    again = dependencies.edges(where, "directed")
    assert again == edges
    assert hash(again) == hash(edges)
    assert edges != dependencies.edges(where, "undirected")


# ---- at the door


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Dependencies({"x": ["thta"]}), "a dependency names 'thta'; this model has 'theta', 'x'. Did you mean"),
        (lambda: Dependencies({"y": []} | {"y[0]": ["x"]}), r"a dependency names 'y'; this model has"),
        (lambda: Dependencies({"x[8]": ["theta"]}), r"'x\[8\]' is no element of 'x', which has 'x\[0\]' to 'x\[7\]'"),
        (lambda: Dependencies({"x": ["theta[-1]"]}), r"'theta\[-1\]' is no element of 'theta'"),
        (lambda: Dependencies({"x[2,2]": ["theta"]}), r"index into its shape \(4, 2\)"),
        (
            lambda: Dependencies({"x": ["theta"], "theta[1]": ["x[2]"]}),
            r"in a circle, ('x\[1,0\]' -> 'theta\[1\]'|'th)",
        ),
        (lambda: Dependencies({"x[0]": ["x[0]"]}), r"in a circle, 'x\[0,0\]' -> 'x\[0,0\]'; take one of these"),
        (lambda: Dependencies.from_matrix(np.zeros((3, 4))), r"is square, \[child, parent\], got the shape \(3, 4\)"),
        (lambda: Dependencies.from_matrix([[0, 0.5], [0, 0]]), "holds booleans: True where the row depends"),
        (lambda: Dependencies.from_matrix(np.zeros((3, 3))), "is for 3 elements; this layout has 13, those of 'theta'"),
        (lambda: Dependencies.from_matrix(np.zeros((13, 13)), ["x"]), "the matrix names 'x'; this layout has 'theta'"),
        (lambda: Dependencies(exchangeable={"x": 3}), "'x' has 8 elements, which do not divide into 3 equal parts"),
        (lambda: Dependencies(exchangeable={"x": 0}), "`exchangeable` gives 'x' 0 parts; write a whole number"),
        (lambda: Dependencies(exchangeable={"y": 2}), "`exchangeable` names 'y'; this model has 'theta', 'x'"),
        (
            lambda: Dependencies({"x": ["theta", "x"]}, exchangeable={"x": 4}),
            r"exchanging parts 0 and 1 loses the edge from 'x\[0,0\]' to 'x\[1,0\]'; declare the same edges",
        ),
        (
            lambda: Dependencies({"x[2,0]": ["theta"]}, exchangeable={"x": 4}),
            r"exchanging parts 1 and 2 loses the edge from 'theta\[0\]' to 'x\[2,0\]'",
        ),
    ],
)
def test_what_cannot_be_is_said_in_one_sentence(make, message):
    with pytest.raises(rd.DataError, match=message):
        make().adjacency(layout(theta=5, x=(4, 2)))


def test_an_unknown_kind_and_a_scan_are_refused():
    with pytest.raises(rd.DataError, match="edges are 'dense', 'undirected', 'directed', got 'causal'"):
        Dependencies().edges(layout(a=1), "causal")

    def walk():
        def step(state, _):
            state = numpyro.sample("s", dist.Normal(state, 1.0))
            return state, state

        numpyro.contrib.control_flow.scan(step, 0.0, None, length=3)

    import numpyro.contrib.control_flow

    with pytest.raises(rd.DataError, match="`scan` hides which step depends on which"):
        Dependencies.from_numpyro(walk)


def test_a_circle_is_named_from_parent_to_child():
    with pytest.raises(rd.DataError) as caught:
        Dependencies({"b": "a", "c": "b", "a": "c", "x": "c"}).adjacency(layout(a=(), b=(), c=(), x=()))
    named = "".join(re.findall("'(.)'", str(caught.value)))
    assert named in ("abca", "bcab", "cabc")
