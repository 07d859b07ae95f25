"""Records what the code did before the restructuring: `python tests/unchanged/record.py`, from commit aba17d4.

It is kept to say how the record was made, and is run no more: it makes models small by constants of modules that were
there then. `questions.py` has what was asked; `test_unchanged.py` asks it again.
"""

import contextlib
import dataclasses
import inspect
import io
import json
import os
import shutil
import sys
import types
import warnings
from pathlib import Path
from unittest import mock


os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).parent.parent))

import numpy as np
from retrodict.estimators import _narrow
from retrodict.estimators import _surrogate as site_surrogate

import retrodict as rd
from retrodict import cli, distillation, recipe
from retrodict.training import _plates, _surrogate
from unchanged.questions import (
    ARRAYS,
    AUTO,
    COUNTS,
    CURVE,
    NET,
    QUESTIONS,
    SIMULATIONS,
    SITES,
    STORE,
    STRAIGHT,
    TEXTS,
    asked,
    model_file,
    record_of,
    store_rows,
    trained,
)


QUICK = {"steps": 150, "batch_size": 32, "learning_rate": 1e-2, "progress": False}  # so that weights say something
SMALL = {"heads": 1, "head_size": 8, "depth": 1}
METHODS = (
    "sample", "guided", "log_prob", "estimate_log_prob", "grad_log_prob", "velocity", "score", "to_coordinates",
    "from_coordinates", "seen_at", "under", "log_density",
)  # fmt: skip
CONSTANTS = ("ABSENT", "GIVEN", "LATENT", "VARIES", "METHODS", "SOLVERS", "CANDIDATES")


def fitted(model, sims):
    return rd.fit(model, sims, key=1, **QUICK)[0]


def joint(sims, **settings):
    return fitted(rd.joint(sims.layout, **{"net": NET, "key": 2, **settings}), sims)


def checked():
    """With a calibration of the posterior, and a solver that was chosen for it."""
    sims, held = rd.simulate(COUNTS, 400, key=0), rd.simulate(COUNTS, 120, key=1)
    model, _ = rd.check(joint(sims), held, given=["counts"], observations=40, draws=40, densities=4, key=3)
    return rd.tune(model, given=["counts"], solver=AUTO)[0]


def simformer():
    sims = rd.simulate(COUNTS, 400, key=0)
    return joint(sims, net=rd.nets.Simformer(**SMALL), dependencies=rd.Dependencies.of(COUNTS))


def functions():
    sims = rd.simulate(CURVE, 400, key=0)
    return joint(sims, net=rd.nets.Simformer(**SMALL))


def framed():
    sims = rd.simulate(STRAIGHT, 400, key=0)
    return fitted(rd.posterior(sims.layout, net=NET, framed=True, key=2), sims)


def unconditional():
    sims = rd.simulate(STRAIGHT, 400, key=0)
    return fitted(rd.unconditional(sims.layout, net=NET, key=2), sims)


def along(path):
    return joint(rd.simulate(COUNTS, 400, key=0), path=path)


def hierarchical():
    """The network that says where the parameters of a site are is what it is: 128 wide."""
    small = {
        (_narrow, "ResMLP"): lambda *sizes: NET,
        (site_surrogate, "WIDTH"): 8,
        (site_surrogate, "DEPTH"): 1,
        (site_surrogate, "AT_ONCE"): 512,
        (_surrogate, "REGRESSED"): 900,
        (_plates, "SETS"): 64,
        (_plates, "JUDGES"): 16,
    }
    with patched(small):
        sims = rd.simulate(SITES, 400, key=0)
        net = rd.nets.PlateTransformer(**SMALL, features=4)
        small_site = rd.hierarchical(sims.layout, net=net, flow=NET, site=NET, counts=(1, 4), key=2)
        start = rd.hierarchical(sims.layout, net=net, flow=NET, counts=(1, 4), key=2)  # the mixture as its surrogate
        start = dataclasses.replace(start, site=small_site.site)
        return rd.fit(start, sims, key=1, **{**QUICK, "steps": 60, "batch_size": 16})[0]


def weighted():
    small = {
        (recipe, "NET"): NET,
        (recipe, "STEPS"): 150,
        (recipe, "MADE"): 400,
        (recipe, "PROPOSALS"): 4,
        (recipe, "SURROGATE"): {"width": 8, "depth": 1, "components": 2, "steps": 100},
        (recipe, "TUNING"): {"steps": 10, "learning_rate": 1e-4},
        (recipe, "_better"): lambda losses: "weighted",
    }
    with patched(small):
        model, account = rd.learn_posterior(rd.simulate(STRAIGHT, 400, key=0), key=1, progress=False)
    assert account.chosen == "weighted"
    return model


def distilled(by, **settings):
    sims = rd.simulate(STRAIGHT, 400, key=0)
    teacher = joint(sims)
    small = {
        (distillation, "PAIRS"): 512,
        (distillation, "JUDGES"): 128,
        (distillation, "c2st"): lambda one, other: 0.51,
    }
    with patched(small):
        return by(teacher, sims, given=["x"], steps=150, key=4, progress=False, observations=3, **settings)[0]


MODELS = {
    "joint": checked,
    "functions": functions,
    "framed": framed,
    "simformer": simformer,
    "vp": lambda: along(rd.paths.vp()),
    "ve": lambda: along(rd.paths.ve()),
    "edm": lambda: along(rd.paths.edm()),
    "unconditional": unconditional,
    "weighted": weighted,
    "hierarchical": hierarchical,
    "distilled_sampler": lambda: distilled(rd.distill, net=NET, draws=20),
    "distilled_density": lambda: distilled(rd.distill_density, width=8, depth=1, components=2),
}


@contextlib.contextmanager
def patched(constants):
    with contextlib.ExitStack() as stack:
        for (module, name), value in constants.items():
            stack.enter_context(mock.patch.object(module, name, value))
        yield


# the public face ------------------------------------------------------------------------------------------------------


def keywords(thing):
    try:
        return [name for name in inspect.signature(thing).parameters if name != "self"]
    except (TypeError, ValueError):
        return None


def face():
    """Public names with their keywords, those of the rooms, and those of the methods of every kind of model."""
    names = [name for name in dir(rd) if not name.startswith("_")]
    names = [name for name in names if not isinstance(getattr(rd, name), types.ModuleType)]
    assert len(names) == 41, names
    told = {name: keywords(getattr(rd, name)) for name in names}
    rooms = {}
    for room in rd._ROOMS:
        module = getattr(rd, room)
        home = module.__name__ if Path(module.__file__).name != "__init__.py" or room == "tasks" else "retrodict"
        found = [name for name, value in vars(module).items() if own(name, value, home)]
        rooms[room] = {name: keywords(getattr(module, name)) for name in sorted(found)}
    methods = {
        name: {m: keywords(getattr(model, m)) for m in METHODS if callable(getattr(model, m, None))}
        for name, model in ((name, rd.load(model_file(name))) for name in MODELS)
    }
    bases = {name: bases_of(getattr(rd, name)) for name in names}
    bases = {name: found for name, found in bases.items() if found}
    return {"names": told, "rooms": rooms, "methods": methods, "bases": bases, "open_store": store_face()}


def own(name, value, home):
    if name.startswith("_") or isinstance(value, types.ModuleType):
        return False
    return name in CONSTANTS or str(getattr(value, "__module__", "")).startswith(home)


def bases_of(thing):
    """What errors and warnings are caught as."""
    if not (isinstance(thing, type) and issubclass(thing, BaseException)):
        return []
    return [base.__name__ for base in thing.__mro__[1:] if base is not object]


def store_face():
    return [name for name in dir(rd.open_store(STORE)) if not name.startswith("_")]


def command_line():
    """Every verb with its arguments and options, and whether an option takes a value."""
    import typer

    group = typer.main.get_command(cli.app)
    verbs = {}
    for verb, command in group.commands.items():
        options = {
            spelled: not getattr(p, "is_flag", False)
            for p in command.params
            if p.param_type_name == "option"
            for spelled in p.opts
        }
        verbs[verb] = {"options": options, "arguments": sum(p.param_type_name == "argument" for p in command.params)}
    return verbs


def said(arguments):
    told = io.StringIO()
    with contextlib.redirect_stdout(told), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert cli.run(arguments) == 0
    return json.loads(told.getvalue())


def main():
    arrays, doubts, records = {}, {}, {}
    for name, make in MODELS.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            rd.save(make(), model_file(name))
        model = rd.load(model_file(name))
        records[name] = record_of(model)
        for question, ask in QUESTIONS[name](model).items():
            answer, spoken = asked(ask)
            doubts[f"{name}/{question}"] = spoken
            arrays |= {f"{name}/{question}/{part}": value for part, value in answer.items()}
        print(f"{name}: {model_file(name).stat().st_size} bytes", flush=True)
    sampler, density = (rd.load(model_file(name)) for name in ("distilled_sampler", "distilled_density"))
    proofs = {"c2st": list(sampler.proof.c2st), "bar": sampler.proof.bar, "ok": sampler.proof.ok}
    proofs |= {"evaluations": sampler.evaluations, "kl": density.kl, "spread": density.spread}
    for name, simulate in SIMULATIONS.items():
        arrays |= {f"simulations/{name}/{part}": np.asarray(value) for part, value in simulate().items()}
    shutil.rmtree(STORE, ignore_errors=True)
    sims = store_rows(STORE)
    (STORE / "status" / ".lock").unlink()  # names the process and the machine
    arrays |= {f"store/{part}": np.asarray(value) for part, value in sims.items()}
    store = rd.open_store(STORE)
    arrays["store/codes"] = np.asarray(store.codes)
    model, history = trained()
    loss = {"step": history.step, "train": history.train, "validation": history.validation}
    arrays |= {f"training/{part}": value for part, value in loss.items()}
    draws, _ = asked(lambda: model.sample(4, given={"counts": np.ones(3, np.float32)}, key=8))
    arrays |= {f"training/{part}": value for part, value in draws.items()}
    given = '{"counts": [0.8, null, 1.1]}'
    sampled = said(["sample", str(model_file("joint")), "--given", given, "--n", "20", "--seed", "3", "--json"])
    np.savez_compressed(ARRAYS, **arrays)
    texts = {
        "doubts": doubts,
        "records": records,
        "proofs": proofs,
        "store": {"counts": sims.counts, "status": store.status},
        "simulated": {"counts": {name: simulate().counts for name, simulate in SIMULATIONS.items()}},
        "face": face(),
        "verbs": command_line(),
        "sample": {"given": given, "said": sampled},
    }
    TEXTS.write_text(json.dumps(texts, sort_keys=True, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
