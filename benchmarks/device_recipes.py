"""The recipes of the study of devices: "compress once, deploy on N devices", with equal compute for every method.

``python benchmarks/devices.py --write`` writes them. They are plain recipes, but the epochs of their stages follow from
the arithmetic below, and a method that trains for each device by itself has up to 16 times the same stages.

Costs are counted in *passes*: one pass is the multiply-adds of a forward of the whole network over all training
examples. In each step a network of share s of the encoder costs 3 s (forward, and backward twice as much). A pass has
the same meaning on every task, so epochs are the same on all tasks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "recipes" / "devices"

# ---- the protocol

LARGEST, SMALLEST = 50.0, 12.0
"""The range of the budgets, in percent of the encoder's parameters."""
DEVICES = (1, 4, 16)
BUDGETS = {
    1: (25.0,),
    3: (50.0, 25.0, 12.0),  # of the study of one training, which has no other numbers of devices
    4: (50.0, 31.0, 19.0, 12.0),
    16: tuple(round(LARGEST * (SMALLEST / LARGEST) ** (i / 15), 1) for i in range(16)),
}
"""Devices → their budgets, the largest first: in equal ratios."""
SWITCHES = {"one": 1, "three": 3, "sixteen": 16}
"""Switch → devices, of recipes that are for 4 devices."""
FLAT = (12.0, 17.0, 25.0, 35.0, 50.0)
"""Sizes of the flat networks by which super-networks of different learning rates are judged."""

RATES = {
    "magnitude": "1e-4",
    "rosita": "2e-4",
    "dhspg": "2e-4",
    "chain": "2e-4",
    "yoco-bert": "3e-4",
    "flat": "3e-4",
    "uniform": "1e-4",
    "sandwich": "1e-4",
    "published": "1e-4",
    "tied-grid": "1e-4",
    "dynabert": "2e-4",
}
"""The learning rate of each method, of all its stages but the teacher's."""
OWN_DROPOUT: frozenset[str] = frozenset()
"""The methods that train with the network's own dropout; the others train without."""

# ---- compute, in passes

TEACHER = 1.0
"""A teacher's logits: each example once in a run, since every stage of it could use them again."""
TOTAL = 2 * 3 + TEACHER
"""Of training and search together: two epochs of training the whole network, with distillation."""
SELECT = 0.11
"""Examples of ``select`` for each training example: an evaluation there costs this much of a pass."""
EXAMPLES = 5600
"""Training examples: the harmonic mean of SST-2's 10,000 (limited), CoLA's 7,696 and MRPC's 3,301."""
SHORTEST_EPOCH = 70
"""Steps of an epoch of RTE, the smallest task of GLUE but WNLI: a schedule of pruning must fit into them."""
IMPORTANCE_BATCHES = 8
IMPORTANCE = 3 * 32 * IMPORTANCE_BATCHES / EXAMPLES
"""Scores of importance from gradients, of the whole network."""
NEAR_BUDGET = 0.85
"""The mean size of the networks that evolution and the grid evaluate for a budget, as a share of that budget."""

# ---- the network: MiniLM-L6

LAYERS, HEADS, NEURONS = 6, 12, 1536
HEAD, NEURON, FIXED = 4 * 384 * 32 + 3 * 32, 2 * 384 + 1, 6 * 384
"""Parameters of a head, of a neuron, and of the rest of a layer."""
ENCODER = LAYERS * (FIXED + HEADS * HEAD + NEURONS * NEURON)

TEACHER_STAGE = {"save_as": "teacher", "epochs": 3, "batch_size": 64, "learning_rate": "1e-4", "keep": "best"}
KD = {"use": "kd", "teacher": "teacher", "temperature": 2, "weight": 0.7}
HIDDEN = {"use": "kd_hidden", "teacher": "teacher"}
"""Learning from the teacher's hidden states. ROSITA and DynaBERT do so in their own way, the published pipeline not."""
EVALUATE = {"split": "dev", "models": ["teacher", "best@*"], "costs": ["params", "encoder_params", "macs"]}
GRID_DEPTHS, GRID_WIDTHS = (3, 4, 5, 6), (0.25, 0.5, 0.75, 1.0)
GRID_SPACE = {
    "use": "width_depth",
    "layers": list(GRID_DEPTHS),
    "depth": "spread",
    "heads": [3, 6, 9, 12],
    "ffn": [358, 764, 1148, 1536],  # a little below the shares, so that 3 layers of a quarter are within 12 %
}
UNIFORM_SPACE: dict[str, Any] = {
    "use": "width_depth",
    "layers": [[0, 2, 5], [0, 2, 3, 5], [0, 1, 2, 3, 5], [0, 1, 2, 3, 4, 5]],
    "heads": [2, 4, 8, 12],
    "ffn": [192, 384, 768, 1152, 1536],
}


Stages = list[tuple[str, Mapping[str, Any]]]
"""Pairs of a verb and its options."""


@dataclass
class Recipe:
    """A recipe to write.

    Args:
        name: the file's, below ``devices/``.
        title: the first line of its head.
        notes: further lines.
        content: top-level keys → values; ``stages`` and ``switches`` come last.
        stages: what to do, in order; empty if the recipe that it extends has them.
        switches: name → changes.
    """

    name: str
    title: str
    notes: Sequence[str]
    content: Mapping[str, Any]
    stages: Stages = field(default_factory=list)
    switches: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def recipes() -> list[Recipe]:
    """Return all recipes of the study."""
    written = []
    for make in (magnitude, rosita, dhspg, chain):
        written += [make(devices) for devices in DEVICES]
    return [*written, yoco_bert(), flat_bands(), uniform(), tied_grid(), dynabert(), sandwich(), published()]


# ---- one training for each device


def magnitude(devices: int) -> Recipe:
    """Cut the teacher by magnitude to each size, and tune each network."""
    budgets = BUDGETS[devices]
    archs = {winner(budget): flat(budget) for budget in budgets}
    stages: Stages = [
        ("train", TEACHER_STAGE),
        ("transform", {"use": "rewire", "score": "magnitude"}),
        ("extract", {"archs": archs}),
    ]
    smoke: dict[str, Any] = {}
    compute = (TOTAL - TEACHER) / devices
    for number, budget in enumerate(budgets, 1):
        name = stage_name("tune", number, devices)
        epochs = compute / trained(budget / 100)
        stages.append(("train", distilled(name, epochs, "magnitude", models=[winner(budget)])))
        smoke[f"stages.{name}.max_steps"] = 2
    return single("magnitude", devices, "The largest heads and neurons, cut at once, then tuned", stages, smoke)


def dhspg(devices: int) -> Recipe:
    """For each size start from the teacher again: make groups zero by DHSPG, cut them out, tune the small network."""
    compute = (TOTAL - TEACHER) / devices
    in_sparse = 0.34  # of the compute, as in hspg/_minilm; the whole network is trained there
    stages: Stages = [("train", TEACHER_STAGE)]
    smoke: dict[str, Any] = {}
    for number, budget in enumerate(BUDGETS[devices], 1):
        sparse = stage_name("sparse", number, devices)
        cut = stage_name("cut", number, devices)
        tune = stage_name("tune", number, devices)
        pruning = {"use": "dhspg", "size": percent(budget), "start": "5%", "ramp_end": "90%"}
        epochs = in_sparse * compute / trained(1)
        options = distilled(sparse, epochs, "dhspg", first=pruning, **{"from": "teacher"})
        stages.append(("train", options | {"schedule": "constant"}))
        stages.append(("extract", {"name": cut, "archs": {winner(budget): sparse}}))
        epochs = (1 - in_sparse) * compute / trained(budget / 100)
        stages.append(("train", distilled(tune, epochs, "dhspg", models=[winner(budget)])))
        smoke[f"stages.{sparse}.max_steps"] = 6
        smoke[f"stages.{tune}.max_steps"] = 2
    return single("dhspg", devices, "DHSPG: groups become zero, are cut out, and the rest is tuned", stages, smoke)


def rosita(devices: int) -> Recipe:
    """Cut the depth once, then the width for each size from the shallow network, which teaches.

    If each device cut the depth again, the compute for that would be divided, too; once is better for the method.
    Hidden states are not cached, so the teachers of both stages run in every step.
    """
    in_depth = 0.25  # of the compute, as in rosita/_minilm
    depth = (LAYERS - 1) / LAYERS
    over_depth = 0.1
    over_width = 0.2 if devices < 16 else 0.3  # so that short stages have time for some cuts
    hidden = {"use": "kd_hidden", "teacher": "teacher", "layers": "skip", "weight": 12}
    depth_prune = {"use": "scheduled_prune", "layers": LAYERS - 1, "over": over_depth}
    depth_epochs = in_depth * TOTAL / (trained(pruned_mean(1, depth, over_depth)) + 1)
    train_depth = {
        "name": "depth",
        "arch": {},
        "epochs": rounded(depth_epochs),
        "learning_rate": RATES["rosita"],
        "warmup_ratio": 0,
        "modifiers": [depth_prune, {"use": "kd", "teacher": "teacher", "weight": 1}, hidden, *dropout("rosita")],
    }
    stages: Stages = [
        ("train", TEACHER_STAGE),
        ("train", train_depth),
        ("extract", {"name": "shallow", "archs": {"shallow": "depth"}}),
    ]
    smoke: dict[str, Any] = {"stages.depth.max_steps": 5, "stages.depth.modifiers.0.over": 0.4}
    compute = (1 - in_depth) * TOTAL / devices
    for number, budget in enumerate(BUDGETS[devices], 1):
        width = stage_name("width", number, devices)
        cut = stage_name("cut", number, devices)
        epochs = compute / (trained(pruned_mean(depth, budget / 100, over_width)) + depth)
        prune = {
            "use": "scheduled_prune",
            "target": percent(budget),
            "of": "teacher",
            "times": cuts(epochs, over_width),
            "over": over_width,
        }
        options = {
            "name": width,
            "from": "shallow",
            "space": "width_depth",
            "arch": {},
            "epochs": rounded(epochs),
            "learning_rate": RATES["rosita"],
            "warmup_ratio": 0,
            "modifiers": [
                prune,
                {"use": "kd", "teacher": "shallow", "weight": 1},
                hidden | {"teacher": "shallow"},
                *dropout("rosita"),
            ],
        }
        stages.append(("train", options))
        stages.append(("extract", {"name": cut, "archs": {winner(budget): width}}))
        smoke |= smoke_of_pruning(width)
    return single("rosita", devices, "ROSITA: depth, then for each device the width, by a schedule", stages, smoke)


def chain(devices: int) -> Recipe:
    """Prune gradually from one budget to the next, and keep a network at each.

    A segment gets compute in proportion to the logarithm of the ratio of its sizes: the first one halves the network,
    and for 16 devices each of the others cuts off a tenth of what is left.
    """
    over = 0.3
    budgets = BUDGETS[devices]
    sizes = [100.0, *budgets]
    whole_way = math.log(sizes[0] / sizes[-1])
    stages: Stages = [("train", TEACHER_STAGE)]
    smoke: dict[str, Any] = {}
    start: dict[str, Any] = {"from": "teacher", "arch": {}}
    for number, (before, budget) in enumerate(itertools.pairwise(sizes), 1):
        prune_stage = stage_name("prune", number, devices)
        cut = stage_name("cut", number, devices)
        compute = (TOTAL - TEACHER) * math.log(before / budget) / whole_way
        epochs = compute / trained(pruned_mean(before / 100, budget / 100, over))
        prune = {
            "use": "scheduled_prune",
            "target": percent(budget),
            "of": "teacher",
            "times": cuts(epochs, over),
            "over": over,
            "moments": "keep",  # the optimiser's moments outlive a cut; ROSITA's published code resets them
        }
        stages.append(("train", distilled(prune_stage, epochs, "chain", first=prune, **start)))
        stages.append(("extract", {"name": cut, "archs": {winner(budget): prune_stage}}))
        smoke |= smoke_of_pruning(prune_stage)
        start = {"arch": prune_stage}  # of the same network, whose first heads and neurons are those that were kept
    title = "One chain of gradual pruning that keeps a network at each budget on its way down"
    return single("chain", devices, title, stages, smoke)


def single(
    method: str,
    devices: int,
    title: str,
    stages: Stages,
    smoke: Mapping[str, Any],
) -> Recipe:
    """Return a recipe that trains for the budgets that it is given."""
    name = f"{method}-{devices}"
    content = {
        "extends": "../_base/minilm_equal.yaml",
        "name": f"devices-{name}",
        "space": "width_depth",
        "budgets": budgets_of(devices),
    }
    smoke = {"task.train_limit": 96, "stages.teacher.max_steps": 3, **smoke}
    whom = "one device" if devices == 1 else f"{devices} devices"
    notes = ["All devices share one method's compute; benchmarks/device_recipes.py worked it out and wrote this file."]
    return Recipe(name, f"{title}: for {whom}.", notes, content, [*stages, ("evaluate", EVALUATE)], {"smoke": smoke})


# ---- one training for all devices


def yoco_bert() -> Recipe:
    """Train YOCO-BERT's default with the devices' budgets as bands; for 16 devices with 5 bands and sizes between."""
    probes = 0.25 * 0.4  # the modifier's share of the steps' compute, while the sampler learns
    trials = {1: 2, 3: 6, 4: 8, 16: 16}  # two guesses for each device, or one

    def changes(devices: int) -> dict[str, Any]:
        return banded(devices, trials[devices], probes, 2 * IMPORTANCE)  # of rewire and of importance_prior

    four = changes(4)
    content = {
        "extends": "../yoco_bert/minilm.yaml",
        "name": "devices-yoco-bert",
        "budgets": four.pop("budgets"),
        "sampler": {"bands": four.pop("sampler.bands")},
        "set": {
            "stages.transform.batches": IMPORTANCE_BATCHES,
            **four,
            "stages.supernet.learning_rate": RATES["yoco-bert"],
            "stages.evaluate.models": EVALUATE["models"],
            "stages.evaluate.costs": EVALUATE["costs"],
        },
    }
    switches = {
        **{name: changes(devices) for name, devices in SWITCHES.items()},
        **later("shared", 16, stages=6),
        **flat_networks(),
    }
    title = "YOCO-BERT for 4 devices: one super-network with a band of costs for each, then a network for each."
    return Recipe("yoco-bert", title, USES, content, [], switches)


def flat_bands() -> Recipe:
    """Train networks of all six layers and one width, a size for each band, in turn: YOCO-BERT with one shape."""

    def changes(devices: int) -> dict[str, Any]:
        return banded(devices, devices, probes=0.0, importance=IMPORTANCE)

    four = changes(4)
    space = {"use": "compound", "smallest": "10%", "layers": [LAYERS], "attention": [0.33], "tilts": [0]}
    sampler = {"use": "banded_sng", "bands": four.pop("sampler.bands"), "top": 1}
    train = distilled("supernet", four.pop("stages.supernet.epochs"), "flat", save_as="supernet", sampler="shared")
    search = {"sampler": "shared", "trials": four.pop("stages.search.trials"), "winner": "loss"}
    content = {
        "extends": "../_base/minilm_equal.yaml",
        "name": "devices-flat",
        "space": space,
        "sampler": sampler,
        "budgets": four.pop("budgets"),
    }
    stages = supernet_stages(train, search)
    switches = {
        **{name: changes(devices) for name, devices in SWITCHES.items()},
        **later("shared", 16, len(stages)),
        **flat_networks(),
        "smoke": SUPERNET_SMOKE,
    }
    title = "Flat networks for 4 devices: all layers, one width, a size for each device in turn; nothing is learned."
    return Recipe("flat", title, USES, content, stages, switches)


def banded(devices: int, trials: int, probes: float, importance: float) -> dict[str, Any]:
    """Return the options of a training with a band for each device, or with 5 bands for 16 devices.

    Args:
        devices: their number.
        trials: networks that the search evaluates.
        probes: compute of probes, as a share of that of the steps.
        importance: passes for scores of importance.
    """
    # A band for each of 16 devices would get 50 steps of concentration, and neighbours could learn other shapes.
    bands = {1: BUDGETS[1], 3: BUDGETS[3], 4: BUDGETS[4], 16: FLAT}
    between = {1: 0.1, 3: 0.1, 4: 0.1, 16: 0.5}  # share of the last phase's steps
    sizes = [size / 100 for size in bands[devices]]
    last_phase = 0.5
    share_between = 0.0  # there is no size between if there is one band
    if len(sizes) > 1:
        share_between = last_phase * between[devices]
    size = (1 - share_between) * mean(sizes) + share_between * ladder_mean(min(sizes), max(sizes))
    searching = SELECT * trials * mean(BUDGETS[devices]) / 100
    compute = TOTAL - TEACHER - importance - searching
    values = {
        "budgets": budgets_of(devices),
        "sampler.bands": [percent(band) for band in sorted(bands[devices])],
        "stages.supernet.epochs": rounded(compute / (trained(size) * (1 + probes))),
        "stages.search.trials": trials,
    }
    if between[devices] != between[4]:
        values["sampler.between"] = between[devices]
    return values


def uniform() -> Recipe:
    """Train a random sub-network of the table's space in each step, then search by evolution."""
    trials = 24
    size = mean_size(UNIFORM_SPACE["layers"], UNIFORM_SPACE["heads"], UNIFORM_SPACE["ffn"])
    epochs = (TOTAL - TEACHER - IMPORTANCE - evolution_search(trials)) / trained(size)
    notes = [*USES, "The table protocol's space, with smaller widths, since 12 % would be out of its reach."]
    title = "A uniformly sampled super-network for 4 devices, then evolution with few evaluations."
    train = distilled("supernet", epochs, "uniform", save_as="supernet", sampler="random")
    return once(
        "uniform", title, notes, UNIFORM_SPACE, train, {"sampler": "evolution", "trials": trials, "winner": "loss"}
    )


def sandwich() -> Recipe:
    """Train the largest, the smallest and a random sub-network in each step, then search as for uniform sampling."""
    trials = 24
    layers, heads, ffn = UNIFORM_SPACE["layers"], UNIFORM_SPACE["heads"], UNIFORM_SPACE["ffn"]
    smallest = mean_size(layers[:1], heads[:1], ffn[:1])
    sizes = [1.0, smallest, mean_size(layers, heads, ffn)]
    epochs = (TOTAL - TEACHER - IMPORTANCE - evolution_search(trials)) / trained(sum(sizes))
    notes = [*USES, "The table protocol's space, with smaller widths, since 12 % would be out of its reach."]
    title = "The sandwich rule for 4 devices: largest, smallest and a random sub-network a step; then evolution."
    sampler = {"use": "sandwich", "inner": "random"}
    train = distilled("supernet", epochs, "sandwich", save_as="supernet", sampler=sampler, archs_per_step=3)
    return once(
        "sandwich", title, notes, UNIFORM_SPACE, train, {"sampler": "evolution", "trials": trials, "winner": "loss"}
    )


PUBLISHED_SPACE: dict[str, Any] = {
    "use": "width_depth",
    "layers": [3, 4, 5, 6],
    "heads": UNIFORM_SPACE["heads"],
    "ffn": UNIFORM_SPACE["ffn"],
}
PUBLISHED_DRIFT = 1.2
"""How much larger the sub-networks of the published pipeline are than evenly drawn ones, as θ moves to large ones."""


def published() -> Recipe:
    """Train YOCO-BERT's published pipeline: eight phases, no teacher, a search for each budget.

    The published search lets all networks in and lowers the score of those beyond the budget. With so few trials that
    would often find none within it, so here only networks within the budget are proposed, which is better for it.
    """
    layers, heads, ffn = PUBLISHED_SPACE["layers"], PUBLISHED_SPACE["heads"], PUBLISHED_SPACE["ffn"]
    phases: dict[str, dict[str, Any]] = {  # what each phase trains, as published
        "head-0": {"heads": heads[-2:], "ffn": ffn[-1:], "layers": layers[-1:]},
        "head-1": {"ffn": ffn[-1:], "layers": layers[-1:]},
        "ffn-0": {"ffn": ffn[-2:], "layers": layers[-1:]},
        "ffn-1": {"ffn": ffn[-3:], "layers": layers[-1:]},
        "ffn-2": {"layers": layers[-1:]},
        "layer-0": {"layers": layers[-2:]},
        "layer-1": {"layers": layers[-3:]},
        "layer-2": {},
    }
    sizes = []
    for within in phases.values():
        drawn = {**PUBLISHED_SPACE, **within}
        sizes.append(mean_size(drawn["layers"], drawn["heads"], drawn["ffn"]))
    size = min(1.0, PUBLISHED_DRIFT * mean(sizes))
    trials = 8  # for each budget; the paper has 1,000, which would cost more than everything else
    budgets = BUDGETS[3]
    searching = SELECT * trials * sum(budgets) / 100
    epochs = (TOTAL - searching) / trained(size) / len(phases)  # nothing is spent on a teacher
    common = {
        "epochs": rounded(epochs),
        "learning_rate": RATES["published"],
        "sampler": "shared",
        "warmup_ratio": 0,
        "weight_decay": 0,
        "modifiers": [{"use": "kd", "teacher": "untuned", "temperature": 5, "weight": 0}, *dropout("published")],
    }
    stages: Stages = [
        ("train", TEACHER_STAGE),
        (
            "transform",
            {"name": "untuned", "from": "pretrained", "use": "rewire", "score": "magnitude", "save_as": "untuned"},
        ),
    ]
    smoke: dict[str, Any] = {"task.train_limit": 96, "stages.teacher.max_steps": 3}
    for name, within in phases.items():
        options: dict[str, Any] = {"name": name}
        if within:
            options["within"] = within
        else:
            options["save_as"] = "supernet"
        stages.append(("train", options | common))
        smoke[f"stages.{name}.max_steps"] = 2
    for budget in budgets:
        name = f"search-{budget:g}"
        search = {"name": name, "budgets": {"encoder_params": percent(budget)}, "sampler": "shared", "trials": trials}
        stages.append(("search", search | {"winner": "loss"}))
        smoke[f"stages.{name}.examples"] = 8
        smoke[f"stages.{name}.finalists"] = 1
    stages += [("extract", {}), ("evaluate", EVALUATE)]
    content = {
        "extends": "../_base/minilm_equal.yaml",
        "name": "devices-published",
        "space": PUBLISHED_SPACE,
        "sampler": {"use": "sng_published", "join": "layer"},
        "budgets": {"encoder_params": [percent(budget) for budget in budgets]},
    }
    title = "YOCO-BERT's published pipeline for 3 devices: eight phases from an untuned network, a search a budget."
    notes = [
        "Its teacher only serves for comparison. The table protocol's space, with smaller widths, for 12 %.",
        "flat=true evaluates flat networks on `select` instead: for learning rates.",
        "Epochs were worked out by benchmarks/device_recipes.py, which wrote this file.",
    ]
    changes: dict[str, Any] = {f"stages.search-{budget:g}.trials": 1 for budget in budgets}
    for key, value in flat_networks()["flat"].items():
        if key.startswith(("stages.extract", "stages.evaluate")):
            changes[key] = value
    return Recipe("published", title, notes, content, stages, {"flat": changes, "smoke": smoke})


def tied_grid() -> Recipe:
    """Train DynaBERT's sixteen networks, one a step, with plain distillation; the search evaluates all that fit."""
    grid = {"use": "grid", "tie": [["heads", "ffn"]]}
    epochs = (TOTAL - TEACHER - IMPORTANCE - grid_search()) / trained(mean(grid_sizes()))
    title = "Sixteen networks for 4 devices, depths x widths, one a step; then the best that fits each budget."
    train = distilled("supernet", epochs, "tied-grid", save_as="supernet", sampler=grid | {"cycle": True})
    return once("tied-grid", title, USES, GRID_SPACE, train, {"sampler": grid, "trials": 16, "winner": "loss"})


def dynabert() -> Recipe:
    """Train DynaBERT's two phases, with equally many steps as in dynabert/_minilm."""
    # Hidden states are not cached: the first phase runs its teacher once a step, the second one once for each width.
    widths = sum(GRID_WIDTHS)
    epoch_of_widths = trained(widths) + 1
    epoch_of_depths = trained(sum(grid_sizes())) + widths
    compute = TOTAL - IMPORTANCE - grid_search()
    epochs = rounded(compute / (epoch_of_widths + epoch_of_depths))
    grid = {"use": "grid", "tie": [["heads", "ffn"]]}
    content: dict[str, Any] = {
        "extends": ["../dynabert/_minilm.yaml", "../_base/minilm_equal.yaml"],
        "name": "devices-dynabert",
        "space": {"ffn": GRID_SPACE["ffn"]},
        "budgets": budgets_of(4),
        "set": {
            "stages.teacher.epochs": TEACHER_STAGE["epochs"],
            "stages.transform.batches": IMPORTANCE_BATCHES,
            "stages.width.epochs": epochs,
            "stages.width.max_steps": None,  # steps, which the recipe below counts, would win over epochs
            "stages.width.learning_rate": RATES["dynabert"],
            "stages.width-depth.epochs": epochs,
            "stages.width-depth.max_steps": None,
            "stages.width-depth.learning_rate": RATES["dynabert"],
            "stages.search.winner": "loss",
            "stages.evaluate.models": EVALUATE["models"],
            "stages.evaluate.costs": EVALUATE["costs"],
        },
    }
    for modifier in dropout("dynabert"):
        for stage in ("width", "width-depth"):
            content["set"][f"+stages.{stage}.modifiers.1"] = modifier
    title = "DynaBERT for 4 devices: widths, then widths and depths, then the grid's best that fits each budget."
    notes = [*USES, "In ffn a little below the shares: so that the smallest network is within 12 %."]
    switches = {**other_budgets(), **later(grid, 16, stages=7), **flat_networks()}
    return Recipe("dynabert", title, notes, content, [], switches)


USES = (
    "one=true, three=true and sixteen=true are for as many devices; afterwards=true also searches for the 16 budgets,",
    "as if they had been named only after training; flat=true evaluates flat networks on `select`: for learning rates.",
    "Epochs were worked out by benchmarks/device_recipes.py, which wrote this file.",
)


def once(
    name: str,
    title: str,
    notes: Sequence[str],
    space: Mapping[str, Any],
    train: Mapping[str, Any],
    search: Mapping[str, Any],
) -> Recipe:
    """Return a recipe that trains one super-network and searches it for all budgets.

    Its training does not depend on the budgets, so the runs for 1, 4 and 16 devices share it. What the search costs is
    the mean of the three.
    """
    content = {
        "extends": "../_base/minilm_equal.yaml",
        "name": f"devices-{name}",
        "space": space,
        "budgets": budgets_of(4),
    }
    stages = supernet_stages(train, search)
    switches = {
        **other_budgets(),
        **later(search["sampler"], search["trials"], len(stages)),
        **flat_networks(),
        "smoke": SUPERNET_SMOKE,
    }
    return Recipe(name, title, notes, content, stages, switches)


def supernet_stages(train: Mapping[str, Any], search: Mapping[str, Any]) -> Stages:
    """Return the stages of a method that trains one super-network and searches it."""
    return [
        ("train", TEACHER_STAGE),
        ("transform", {"use": "rewire", "score": "taylor", "batches": IMPORTANCE_BATCHES}),
        ("train", train),
        ("search", search),
        ("extract", {}),
        ("evaluate", EVALUATE),
    ]


SUPERNET_SMOKE = {
    "task.train_limit": 96,
    "stages.teacher.max_steps": 3,
    "stages.supernet.max_steps": 2,
    "stages.search.examples": 8,
    "stages.search.finalists": 1,
}
"""The changes with which such a method takes a few steps."""


def budgets_of(devices: int) -> dict[str, list[str]]:
    """Return the budgets of a number of devices, as recipes have them."""
    return {"encoder_params": [percent(budget) for budget in BUDGETS[devices]]}


def other_budgets() -> dict[str, dict[str, Any]]:
    """Return the switches for other numbers of devices, of a super-network that is the same for all."""
    return {name: {"budgets": budgets_of(devices)} for name, devices in SWITCHES.items()}


def later(sampler: Any, trials: int, stages: int) -> dict[str, dict[str, Any]]:
    """Return the switch that searches for 16 budgets after all else, without training; ``stages`` go before it."""
    search = {
        "name": "search-later",
        "save_as": "later",
        "sampler": sampler,
        "trials": trials,
        "winner": "loss",
        "budgets": budgets_of(16),
    }
    evaluate = {"name": "evaluate-later"} | EVALUATE | {"models": ["later@*"]}
    changes = {
        f"+stages.{stages}": {"search": search},
        f"+stages.{stages + 1}": {"extract": {"name": "extract-later"}},
        f"+stages.{stages + 2}": {"evaluate": evaluate},
    }
    return {"afterwards": changes}


def flat_networks() -> dict[str, dict[str, Any]]:
    """Return the switch that evaluates a few fixed networks on ``select`` instead of searching."""
    archs = {f"flat@{percent(size)}": flat(size) for size in FLAT}
    evaluate = EVALUATE | {"split": "select", "models": ["flat@*"]}
    changes = {
        "budgets": {"encoder_params": [percent(LARGEST)]},
        "stages.search.trials": 1,  # its winner is not used
        "stages.extract.archs": archs,
        "stages.evaluate": evaluate,
    }
    return {"flat": changes}


# ---- arithmetic


def trained(size: float) -> float:
    """Return the passes of an epoch of training a network of this share: forward, and backward twice as much."""
    return 3 * size


def mean_size(layers: Sequence[Any], heads: Sequence[int], ffn: Sequence[int]) -> float:
    """Return the mean share of networks whose choices are drawn independently of each other.

    >>> mean_size([6], [12], [1536])
    1.0
    """
    layer = FIXED + mean(heads) * HEAD + mean(ffn) * NEURON
    depths = [len(choice) if isinstance(choice, list) else choice for choice in layers]
    return mean(depths) * layer / ENCODER


def evolution_search(trials: int) -> float:
    """Return what evolution's trials cost, as the mean over numbers of devices."""
    mean_budget = mean(mean(BUDGETS[devices]) for devices in DEVICES) / 100
    return SELECT * trials * NEAR_BUDGET * mean_budget


def pruned_mean(start: float, end: float, over: float) -> float:
    """Return the mean size of a network that shrinks evenly over the first part of the steps."""
    return over * (start + end) / 2 + (1 - over) * end


def ladder_mean(smallest: float, largest: float) -> float:
    """Return the mean of sizes in equal ratios."""
    if largest == smallest:
        return smallest
    return (largest - smallest) / math.log(largest / smallest)  # the mean of e^x, x even between their logarithms


def grid_sizes() -> list[float]:
    """Return the shares of the sixteen networks of the grid."""
    sizes = []
    for depth in GRID_DEPTHS:
        sizes += [depth / LAYERS * width for width in GRID_WIDTHS]
    return sizes


def grid_search() -> float:
    """Return the mean over numbers of devices of what it costs to evaluate each network that fits a budget."""
    costs = []
    for devices in DEVICES:
        largest = max(BUDGETS[devices]) / 100
        evaluated = [size for size in grid_sizes() if size <= largest]  # nothing beyond the budgets is
        costs.append(SELECT * sum(evaluated))
    return mean(costs)


def cuts(epochs: float, over: float) -> int:
    """Return how many cuts a stage has time for, on the smallest task too; at most 10."""
    return max(1, min(10, int(over * round(epochs * SHORTEST_EPOCH))))


def flat(budget: float) -> dict[str, int]:
    """Return heads and neurons of each layer of the largest network with the same widths in all layers.

    >>> flat(50)
    {'heads': 6, 'ffn': 766}
    """
    heads = max(1, round(HEADS * budget / 100))  # the budget's share; neurons make up for the rounding
    left = budget / 100 * ENCODER / LAYERS - FIXED - heads * HEAD
    return {"heads": heads, "ffn": math.floor(left / NEURON + 1e-9)}


# ---- parts of stages


def distilled(name: str, epochs: float, method: str, first: Mapping[str, Any] | None = None, **where: Any) -> dict:
    """Return a training stage of a method with distillation from cached outputs; ``first`` is a modifier before it."""
    modifiers: list[Mapping[str, Any]] = [KD]
    if first is not None:
        modifiers.insert(0, first)
    hidden = HIDDEN
    if "sampler" in where:  # sub-networks leave layers out
        hidden = HIDDEN | {"layers": "kept"}
    return {
        "name": name,
        **where,
        "epochs": rounded(epochs),
        "learning_rate": RATES[method],
        "teacher_cache": "run",
        "teacher_states": "fp16",
        "modifiers": [*modifiers, *dropout(method), hidden],
    }


def dropout(method: str) -> list[Mapping[str, Any]]:
    """Return the modifier that switches dropout off, if the method trains without it."""
    if method in OWN_DROPOUT:
        return []
    return [{"use": "dropout", "rate": 0}]


def smoke_of_pruning(stage: str) -> dict[str, Any]:
    """Return the changes with which a stage of scheduled pruning takes a few steps."""
    return {
        f"stages.{stage}.max_steps": 12,
        f"stages.{stage}.modifiers.0.times": 2,
        f"stages.{stage}.modifiers.0.over": 0.5,
    }


def stage_name(stage: str, number: int, devices: int) -> str:
    """Return the name of a stage of one of several devices; a number, since a dot would divide an override's path."""
    return stage if devices == 1 else f"{stage}-{number}"


def winner(budget: float) -> str:
    """Return the name of the network for a budget."""
    return f"best@{percent(budget)}"


def percent(size: float) -> str:
    """Write a size as recipes do.

    >>> percent(45.5), percent(12.0)
    ('45.5%', '12%')
    """
    return f"{size:g}%"


def rounded(epochs: float) -> float:
    """Return epochs in thousandths."""
    return round(epochs, 3)


# ---- YAML


def text_of(recipe: Recipe) -> str:
    """Return the file of a recipe."""
    lines = [f"# {recipe.title}", f"#   nasframe run devices/{recipe.name} task.name=sst2 task.path=path/to/SST-2"]
    lines += [f"# {note}" for note in recipe.notes]
    for key, value in recipe.content.items():
        lines += block(key, value, 0)
    if recipe.stages:
        lines.append("stages:")
        for verb, options in recipe.stages:
            first, *rest = block(verb, options, 4)
            lines += [f"  - {first.strip()}", *rest]
    if recipe.switches:
        lines.append("switches:")
        for name, changes in recipe.switches.items():
            lines += block(name, changes, 2)
    return "\n".join(lines) + "\n"


WIDTH = 118


def block(key: str, value: Any, indent: int) -> list[str]:
    """Write a key and its value in one line if it fits, else a mapping's or list's parts in lines of their own."""
    line = f"{' ' * indent}{key}: {flow(value)}"
    if len(line) <= WIDTH or not isinstance(value, (dict, list)):
        return [line]
    lines = [f"{' ' * indent}{key}:"]
    if isinstance(value, dict):
        for name, part in value.items():
            lines += block(name, part, indent + 2)
    elif all(isinstance(part, str) for part in value):
        lines[0] += " ["
        for some in batched(value, 12):
            lines.append(" " * (indent + 2) + ", ".join(map(flow, some)) + ",")
        lines.append(" " * indent + "]")
    else:
        lines += [f"{' ' * (indent + 2)}- {flow(part)}" for part in value]
    return lines


def batched(values: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Cut a list into parts of at most this size."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def flow(value: Any) -> str:
    """Write a value in one line.

    >>> flow({"use": "kd", "models": ["best@50%"], "weight": 0.7, "arch": {}})
    '{use: kd, models: ["best@50%"], weight: 0.7, arch: {}}'
    """
    if isinstance(value, Mapping):
        pairs = [f"{key}: {flow(part)}" for key, part in value.items()]
        return "{" + ", ".join(pairs) + "}"
    if isinstance(value, (list, tuple)):
        items = [flow(part) for part in value]
        return "[" + ", ".join(items) + "]"
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    text = str(value)
    if isinstance(value, str) and ("%" in text or "*" in text):
        text = f'"{text}"'
    return text


def write() -> list[Path]:
    """Write all recipes."""
    FOLDER.mkdir(exist_ok=True)
    files = []
    for recipe in recipes():
        file = FOLDER / f"{recipe.name}.yaml"
        file.write_text(text_of(recipe), encoding="utf-8")
        files.append(file)
    return files
