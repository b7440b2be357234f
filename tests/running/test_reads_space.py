"""A stage whose modifier reads the space depends on it; all others of the whole network are shared between spaces."""

from pathlib import Path

import nasframe as nf
from nasframe.interfaces import Modifier
from nasframe.registry import factories
from nasframe.running.cache_keys import definition

HERE = Path(__file__).parents[1]
RECIPE = HERE / "data" / "toy.yaml"
PLUGIN = '''
from nasframe import hookimpl
from nasframe.interfaces import Modifier


class Reader(Modifier):
    """Read the space."""


class Blind(Modifier):
    """Do not."""

    reads_space = False


@hookimpl
def register_modifiers(register):
    register("reader", Reader)
    register("blind", Blind)
'''


def test_the_space_is_part_of_the_key_if_a_modifier_may_read_it(tmp_path):
    file = tmp_path / "readers.py"
    file.write_text(PLUGIN)
    plugins = f"plugins=[{HERE / 'toy_plugin.py'}, {file}]"
    for modifier, depends in [("reader", True), ("blind", False), ("{use: dropout, rate: 0.1}", False), (None, False)]:
        modifiers = "[]" if modifier is None else f"[{modifier}, null]"
        stages = f"stages=[{{train: {{save_as: teacher, max_steps: 1, modifiers: {modifiers}}}}}]"
        plan = nf.resolve(nf.load_recipe(RECIPE, [plugins, stages, "~budgets"]))
        with plan.file_plugins():
            assert ("space" in definition(plan, 0)) is depends, modifier


def test_the_shipped_modifiers_say_whether_they_read_it():
    assert Modifier.reads_space, "who says nothing may read it"
    for name, entry in factories("modifier").items():
        if entry.package == "nasframe":
            modifier = entry.load()
            reads = name == "differentiable"  # its expected cost is that of the space's architectures
            assert modifier.reads_space is reads, name
