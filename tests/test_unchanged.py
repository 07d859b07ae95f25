"""What must not change while the house is rebuilt: compared with records that the code before wrote (`unchanged/`).

Public names and keywords, verbs and flags, model files of schema 2, stores on disk, rows of simulations, and equal
draws for equal keys. Only the public face is used here, since modules move. More may be added anywhere. `RTOL` and
`ATOL` leave room for other machines, which round otherwise in the last digits of single precision; another key, another
shape or another way to draw moves numbers by a hundred times as much.
"""

import functools
import inspect
import json
import shutil

import numpy as np
import pytest

import retrodict as rd
from retrodict.cli import run
from unchanged import questions


RTOL, ATOL = 1e-4, 1e-5
EXPECTED = json.loads(questions.TEXTS.read_text())
FACE = EXPECTED["face"]
ASKED = [tuple(label.split("/")) for label in EXPECTED["doubts"]]
MODELS = sorted(questions.QUESTIONS)


@functools.cache
def arrays():
    with np.load(questions.ARRAYS) as found:
        return dict(found)


def recorded(prefix):
    """The arrays under a prefix, by the rest of their names."""
    return {name.removeprefix(prefix): value for name, value in arrays().items() if name.startswith(prefix)}


@functools.cache
def loaded(name):
    return rd.load(questions.model_file(name))


def assert_recorded(found, prefix):
    """The same names in the same order of magnitude: equal shapes, values to rounding, NaN where there was NaN."""
    expected = recorded(prefix)
    assert sorted(found) == sorted(expected)
    for name, value in expected.items():
        assert np.shape(found[name]) == value.shape, name
        np.testing.assert_allclose(found[name], value, rtol=RTOL, atol=ATOL, err_msg=name)


def keywords(thing):
    return list(inspect.signature(thing).parameters)


RENAMED = {"found", "parts", "whole"}  # what readers of files take, and arrays of a learned likelihood: by position


def assert_takes(thing, expected, where):
    """Every keyword that was there is still there; of what told none, as errors, none is asked."""
    if expected is not None:
        missing = [name for name in expected if name not in keywords(thing) and name not in RENAMED]
        assert not missing, f"{where} lost {missing}"


# the face -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(FACE["names"]))
def test_public_names_are_there_with_their_keywords(name):
    assert name in dir(rd)
    assert_takes(getattr(rd, name), FACE["names"][name], f"rd.{name}")


@pytest.mark.parametrize("room", sorted(FACE["rooms"]))
def test_public_rooms_have_what_they_had(room):
    assert room in dir(rd)
    missing = [name for name in FACE["rooms"][room] if not hasattr(getattr(rd, room), name)]
    assert not missing, f"rd.{room} lost {missing}"
    for name, expected in FACE["rooms"][room].items():
        assert_takes(getattr(getattr(rd, room), name), expected, f"rd.{room}.{name}")


@pytest.mark.parametrize("name", sorted(FACE["bases"]))
def test_errors_are_caught_as_before(name):
    bases = [base.__name__ for base in getattr(rd, name).__mro__]
    assert set(FACE["bases"][name]) <= set(bases)


@pytest.mark.parametrize("name", MODELS)
def test_models_take_the_same_keywords(name):
    for method, expected in FACE["methods"][name].items():
        assert_takes(getattr(loaded(name), method), expected, f"{name}: {method}")


# model files ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "question"), ASKED, ids=map(" - ".join, ASKED))
def test_old_files_answer_as_they_did(name, question):
    """Draws for equal keys, densities, and whether the calibration speaks against the question."""
    answer, doubts = questions.asked(questions.QUESTIONS[name](loaded(name))[question])
    assert_recorded(answer, f"{name}/{question}/")
    assert doubts == EXPECTED["doubts"][f"{name}/{question}"]


@pytest.mark.parametrize("name", [name for name in MODELS if EXPECTED["records"][name]])
def test_old_files_remember_training_checks_and_solvers(name):
    """A check belongs to the weights it was made with, by a hash of them: it is lost if these are read otherwise."""
    assert questions.record_of(loaded(name)) == EXPECTED["records"][name]


def test_distilled_models_keep_their_proof():
    sampler, density, proofs = loaded("distilled_sampler"), loaded("distilled_density"), EXPECTED["proofs"]
    assert (list(sampler.proof.c2st), sampler.proof.bar, sampler.proof.ok) == (proofs["c2st"], proofs["bar"], True)
    assert (sampler.evaluations, density.kl, density.spread) == (proofs["evaluations"], proofs["kl"], proofs["spread"])


@pytest.mark.parametrize("name", ["joint", "weighted", "distilled_sampler", "distilled_density", "hierarchical"])
def test_what_was_loaded_can_be_saved_again(name, tmp_path):
    """One of each kind: the file of today gives the numbers of the old one."""
    again = rd.load(rd.save(loaded(name), tmp_path / "again.safetensors"))
    if EXPECTED["records"][name] is not None:  # distilled models had no record before
        assert questions.record_of(again) == EXPECTED["records"][name]
    question = next(label for model, label in ASKED if model == name)
    assert_recorded(questions.asked(questions.QUESTIONS[name](again)[question])[0], f"{name}/{question}/")


def test_the_same_question_with_another_key_has_another_answer():
    """What the comparison above is worth: draws of another key do not pass it."""
    other = loaded("joint").sample(6, given={"counts": questions.COUNT}, key=101)
    with pytest.raises(AssertionError, match="Not equal to tolerance"):
        assert_recorded(other, "joint/posterior/")


# simulations and stores -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(questions.SIMULATIONS))
def test_rows_of_simulations_are_the_same(name):
    sims = questions.SIMULATIONS[name]()
    assert sims.counts == EXPECTED["simulated"]["counts"][name]
    assert_recorded(dict(sims), f"simulations/{name}/")


@pytest.fixture
def store(tmp_path):
    return shutil.copytree(questions.STORE, tmp_path / "store")


def test_an_old_store_opens(store):
    opened = rd.open_store(store)
    missing = [name for name in FACE["open_store"] if not hasattr(opened, name)]
    assert not missing
    assert opened.status == EXPECTED["store"]["status"]
    expected = recorded("store/")
    np.testing.assert_array_equal(opened.codes, expected.pop("codes"))
    sims = opened.sims()
    assert sims.counts == EXPECTED["store"]["counts"]
    for name, value in expected.items():
        np.testing.assert_array_equal(sims[name], value)  # they are read, not made


def test_an_old_store_is_gone_on_with(store):
    """Rows that are there stay; new ones are those of a campaign that was never interrupted."""
    kept = EXPECTED["store"]["counts"]["kept"]
    sims = questions.store_rows(store, questions.STORE_LONGER)
    assert sims.drawn == questions.STORE_LONGER
    whole = rd.simulate(questions.COUNTS_IN_PYTHON, questions.STORE_LONGER, key=3)
    assert sims.kept == whole.kept > kept
    for name in whole:
        np.testing.assert_array_equal(sims[name][:kept], recorded("store/")[name])
        np.testing.assert_allclose(sims[name], whole[name], rtol=RTOL, atol=ATOL)


# training -------------------------------------------------------------------------------------------------------------


def test_training_goes_the_same_way():
    """Twenty steps: losses, and draws of the model that came out."""
    model, history = questions.trained()
    found = {name: getattr(history, name) for name in ("step", "train", "validation")}
    draws, _ = questions.asked(lambda: model.sample(4, given={"counts": np.ones(3, np.float32)}, key=8))
    assert_recorded({**found, **draws}, "training/")


# the command line -----------------------------------------------------------------------------------------------------


def typed(verb, options):
    """A verb with options, each with a value if it takes one, and last of all --help: nothing is run."""
    words = [word for name, valued in options.items() for word in ([name, "1"] if valued else [name])]
    return run([verb, *words, "--help"])


@pytest.mark.parametrize("verb", sorted(EXPECTED["verbs"]))
def test_verbs_have_the_flags_they_had(verb, capsys):
    """An option that is not known, or that takes a value where it took none, is refused before --help is heeded."""
    options = EXPECTED["verbs"][verb]["options"]
    for name, valued in options.items():
        assert typed(verb, {name: valued}) == 0, f"retrodict {verb} lost {name}: {capsys.readouterr().err}"
    assert typed(verb, {"--no-such-flag": False}) == 2


def test_sample_prints_the_same(capsys):
    """Moments of twenty draws in single precision, as JSON."""
    told = EXPECTED["sample"]
    file = str(questions.model_file("joint"))
    assert run(["sample", file, "--given", told["given"], "--n", "20", "--seed", "3", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    expected = told["said"]
    assert {name: said[name] for name in ("n", "draws", "warnings")} == {
        name: expected[name] for name in ("n", "draws", "warnings")
    }
    assert said["summary"].keys() == expected["summary"].keys()
    for element, row in expected["summary"].items():
        assert row.keys() <= said["summary"][element].keys()
        found = [said["summary"][element][column] for column in row]
        np.testing.assert_allclose(found, list(row.values()), rtol=RTOL, atol=ATOL)
