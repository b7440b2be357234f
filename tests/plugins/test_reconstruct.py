from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.interfaces import Work
from nasframe.nn.factorize import factorize_linears
from nasframe.nn.formats import note
from nasframe.testing.toy import ToySpace, ToyTask, tiny_inputs, tiny_net, tiny_tokenizer
from nasframe_basics.reconstruct import Reconstruct

RECIPE = str(Path(__file__).parents[1] / "data" / "toy.yaml")
SMALL = {"layers": [0, 1], "heads.0": 2, "ffn.0": 16, "heads.1": 4, "ffn.1": 64}
WIDE = {"layers": [0, 1, 2], "heads.0": 1, "ffn.0": 16, "heads.1": 1, "ffn.1": 16, "heads.2": 1, "ffn.2": 16}


def net(**config: Any) -> Any:
    return tiny_net(initializer_range=0.3, **config)


def work(**models: Any) -> Work:
    """What extract leaves: two sub-networks with their architectures, and a teacher."""
    space: Any = ToySpace()
    task: Any = ToyTask()
    full = net()
    archs = {"best@50%": SMALL, "best@20%": WIDE}
    extracted = {name: space.extract(full, arch) for name, arch in archs.items()}
    return Work(full, tiny_tokenizer(), task, space, archs, {"teacher": net(seed=1), **extracted, **models})


def gap(mine: Any, its: Any) -> float:
    with torch.no_grad():
        states = [each(**tiny_inputs(words=12), output_hidden_states=True).hidden_states[-1] for each in (mine, its)]
    mask = tiny_inputs()["attention_mask"].bool()
    return float((states[0] - states[1])[mask].square().mean())


def test_the_chosen_models_come_closer_to_the_network() -> None:
    before = work()
    transform = Reconstruct()
    after = transform(before)
    assert set(transform.fits) == {"best@50%", "best@20%"}
    for name, fits in transform.fits.items():
        assert all(fit.after <= fit.before for fit in fits)
        assert gap(after.models[name], before.net) < 0.8 * gap(before.models[name], before.net)
    assert after.models["teacher"] is before.models["teacher"]
    assert after.net is before.net
    one = Reconstruct(models=["best@50%"])(before)
    assert one.models["best@20%"] is before.models["best@20%"]


def test_the_reference_may_be_a_saved_network() -> None:
    before = work()
    after = Reconstruct(models=["*"], reference="teacher")(before)
    assert after.models["teacher"] is before.models["teacher"]
    assert gap(after.models["best@20%"], before.models["teacher"]) < gap(after.models["best@20%"], before.net)
    with pytest.raises(UsageError, match=r"no network 'teecher'. There are: best@20%"):
        Reconstruct(reference="teecher")(before)


def test_examples_are_counted_and_drawn_from_the_seed() -> None:
    one = work()
    fits = []
    for options in ({"examples": 64}, {"examples": 40, "batch_size": 8}, {"examples": 40, "batch_size": 8, "seed": 1}):
        transform = Reconstruct(models=["best@50%"], **options)  # type: ignore[arg-type]
        transform(one)
        fits.append(transform.fits["best@50%"])
    assert len(Reconstruct(examples=40, batch_size=8).batches(one, one.net)) == 5
    assert len(Reconstruct(examples=10**6).batches(one, one.net)) == 2
    assert fits[1] != fits[2]


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(UsageError, match="match no model to fit"):
        Reconstruct(models=["best@10%"])(work())
    rounded = net()
    note(rounded, "0.output.dense", bits=8)
    with pytest.raises(UsageError, match="'a' has quantised or n:m sparse"):
        Reconstruct(models=["a"])(work(a=rounded))
    with pytest.raises(UsageError, match="is a product of two matrices"):
        Reconstruct(models=["a"])(work(a=factorize_linears(net(), 4)))
    with pytest.raises(UsageError, match="differ in family or hidden size"):
        Reconstruct(models=["a"])(work(a=tiny_net("distilbert")))
    with pytest.raises(UsageError, match="'a' has 2 layers, the reference 3"):
        Reconstruct(models=["a"])(work(a=net(layers=2)))
    with pytest.raises(UsageError, match="'best@50%' has 2 layers, the reference 1"):
        Reconstruct(reference="b")(work(b=net(layers=1)))
    with pytest.raises(UsageError, match="cannot be sliced"):
        Reconstruct(models=["a"])(work(a=torch.nn.Linear(2, 2)))


def test_a_run_keeps_the_fitted_models_and_their_outputs(tmp_path: Path) -> None:
    stages = [
        "train: {save_as: teacher, max_steps: 2}",
        "extract: {archs: {a: {layers: 2, ffn: 16}}}",
        "transform: {use: reconstruct, models: [a], examples: 32}",
        "export: {models: [a]}",
    ]
    overrides = [f"stages=[{', '.join('{' + stage + '}' for stage in stages)}]", "~budgets"]
    # The export is compared with the outputs that are kept for the model, which must not be those of the extraction.
    run = nf.run(nf.load_recipe(RECIPE, overrides), out=tmp_path / "run")
    assert (run.directory / "models" / "a" / "model.safetensors").exists()
