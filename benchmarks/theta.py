"""What there is to learn about the shape of networks of one size, and how much of it ``banded_sng`` learns.

    nasframe run yoco_bert/minilm task.path=path/to/CoLA task.name=cola sampler.coverage=1 sampler.learning=0 --out RUN
    python benchmarks/theta.py measure RUN          # signal and noise within each band, on `select` and training data
    python benchmarks/theta.py simulate --signal 0.01 --noise 0.02 --updates 12

``measure`` needs a super-network that trained all choices of each band alike: only then is a difference one of shape.
``simulate`` draws the effects of the choices at random, and lets the sampler learn from probes with that noise.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import numpy as np

CHUNK = 64
"""Examples of a probe."""
EXAMPLES = 1024
"""Training examples that networks are compared on."""


def divergences(finished, teacher, archs: list[dict]) -> np.ndarray:
    """Return ``(archs, chunks)`` mean divergences from the teacher on the same training examples."""
    import torch
    from torch.nn import functional

    batches = itertools.islice(finished.inputs.task.train_batches(0, 0, CHUNK), EXAMPLES // CHUNK)
    rows = []
    net = finished.net.eval()
    with torch.no_grad():
        for batch in batches:
            expected = functional.log_softmax(teacher(**batch.inputs).logits.float(), -1)
            row = []
            for arch in archs:
                logits = finished.space.view(net, arch)(**batch.inputs).logits.float()
                actual = functional.log_softmax(logits, -1)
                divergence = functional.kl_div(actual, expected, reduction="batchmean", log_target=True)
                row.append(float(divergence))
            rows.append(row)
    return np.array(rows).T


def spread_beyond_noise(values: np.ndarray, noise: float) -> float:
    """Return the standard deviation of true values, given measured ones and the standard error of each."""
    return float(np.sqrt(max(values.var(ddof=1) - noise**2, 0.0)))


def measure(directory: str) -> None:
    """Print signal and noise in each band of a finished run."""
    from nasframe.export.files import read_net
    from nasframe.running.reopen import Finished

    finished = Finished(directory)
    teacher = read_net(Path(directory) / "models" / "teacher").eval()
    sampler = finished.plan.sampler
    ladder = finished.space.domain.knobs["size"]
    table = []
    for band in sampler["bands"]:
        size = max(size for size in ladder if size <= float(band.removesuffix("%")))
        archs = list(finished.space.domain.restrict({"size": size}).enumerate())
        losses = divergences(finished, teacher, archs)
        paired = losses - losses.mean(0)  # the sentences of a probe are the same for all
        means = paired.mean(1)
        noise = float(paired.std(1, ddof=1).mean())  # of one probe
        metrics = [finished.evaluate(arch).metrics for arch in archs]
        scores = np.array([values[finished.inputs.task.primary] for values in metrics])
        count = finished.inputs.task.sizes["select"]
        row = {
            "band": band,
            "networks": len(archs),
            "signal": spread_beyond_noise(means, noise / np.sqrt(losses.shape[1])),
            "noise": noise,
            "score_mean": float(scores.mean()),
            "score_spread": float(scores.std(ddof=1)),
            "examples": count,
            "correlation": float(np.corrcoef(-means, scores)[0, 1]),
            "best_by_divergence": archs[int(means.argmin())],
            "effects": effects(archs, means),
        }
        table.append(row)
        print(json.dumps(row))
    (Path(directory) / "theta.json").write_text(json.dumps(table, indent=1))


def effects(archs: list[dict], values: np.ndarray) -> dict[str, dict[str, float]]:
    """Return knob → value → the mean of its architectures, relative to the mean of all."""
    table: dict[str, dict[str, float]] = {}
    for name in archs[0]:
        if name == "size":
            continue
        for choice in sorted({json.dumps(arch[name]) for arch in archs}):
            members = [value for arch, value in zip(archs, values, strict=True) if json.dumps(arch[name]) == choice]
            table.setdefault(name, {})[choice] = round(float(np.mean(members)), 5)
    return table


def simulate(signal: float, noise: float, updates: int, delta: float, additive: float, repeats: int) -> None:
    """Print how much better the learned choice is than a random one, in standard deviations of the choices.

    Args:
        signal: the standard deviation of the losses of a band's networks.
        noise: the standard deviation of a probe's loss of one network, beside the others of the probe.
        updates: probes of a band.
        delta: of the sampler.
        additive: the share of the variance that main effects of the three knobs make up.
        repeats: how many networks and seeds are drawn.
    """
    from nasframe.search.domain import Choices
    from nasframe_yoco_bert.banded import BandedSNG

    domain = Choices({"size": [50.0], "layers": [0, 1, 2], "attention": [0, 1, 2], "tilt": [0, 1, 2]})
    gains = []
    best_chosen = 0  # how often
    for seed in range(repeats):
        rng = np.random.default_rng(seed)
        main = rng.standard_normal((3, 3))
        rest = rng.standard_normal((3, 3, 3))
        sums = main[0][:, None, None] + main[1][:, None] + main[2]
        losses = standardised(sums) * np.sqrt(additive) + standardised(rest) * np.sqrt(1 - additive)
        losses = standardised(losses)
        sampler = BandedSNG(domain, seed=seed, bands=1, coverage=0.0, learning=1.0, delta=delta)
        sampler.start("train", updates, "train")
        for _ in range(updates):
            archs = sampler.probe()
            values = [losses[arch["layers"], arch["attention"], arch["tilt"]] for arch in archs]
            sampler.hear(archs, np.array(values) * signal + noise * rng.standard_normal(len(archs)))
        theta = sampler.bands[0].theta
        mode = tuple(theta.argmax(1))
        gains.append(-losses[mode])
        best_chosen += losses[mode] == losses.min()
    setting = f"signal {signal:g}, noise {noise:g}, {updates} updates, delta {delta:g}"
    gain = f"{np.mean(gains):.2f} ± {np.std(gains) / np.sqrt(repeats):.2f} standard deviations"
    print(f"{setting}: gain {gain}; the best of 27 chosen {best_chosen / repeats:.0%}")


def standardised(values: np.ndarray) -> np.ndarray:
    """Return values of mean 0 and standard deviation 1."""
    return (values - values.mean()) / values.std()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure")
    measuring.add_argument("run")
    simulating = commands.add_parser("simulate")
    simulating.add_argument("--signal", type=float, default=0.01)
    simulating.add_argument("--noise", type=float, default=0.02)
    simulating.add_argument("--updates", type=int, default=12)
    simulating.add_argument("--delta", type=float, default=0.3)
    simulating.add_argument("--additive", type=float, default=0.7)
    simulating.add_argument("--repeats", type=int, default=500)
    arguments = vars(parser.parse_args())
    if arguments.pop("command") == "measure":
        measure(arguments["run"])
    else:
        simulate(**arguments)


if __name__ == "__main__":
    main()
