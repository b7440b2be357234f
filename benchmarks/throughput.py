"""Fine-tuning throughput on SST-2 sentences: our loop, the Hugging Face Trainer, and a plain loop padded to 128.

    python benchmarks/throughput.py [--path path/to/SST-2] [--segments 5] [--steps 200] [--threads 2]

A MiniLM-L6-H384 with random weights, batch size 32. The three sides take turns in segments, each an epoch over the
same sentences, so that a busy machine troubles all alike; reported are medians of examples per second and of ratios.
The Trainer groups by length, pads each batch to its longest and computes in bfloat16; the plain loop pads to 128
tokens in float32. Without ``--path``, texts of SST-2's lengths are made up.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, DataCollatorWithPadding, Trainer, TrainingArguments

from nasframe.interfaces import Modifier, TrainJob
from nasframe.records import TrainOptions
from nasframe.training.optim import native_bf16
from nasframe_basics.loop import Loop
from nasframe_basics.splits import Split
from nasframe_basics.text import TextTask

BATCH = 32
QUIET: dict[str, Any] = {"report_to": [], "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}


def sentences(path: Path | None) -> list[str]:
    """Read SST-2's training sentences, or make up words: lengths are log-normal with SST-2's median and mean."""
    if path is not None:
        with (path / "train.tsv").open(encoding="utf-8") as file:
            return [row["sentence"] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    rng = np.random.default_rng(0)
    lengths = np.clip(np.exp(rng.normal(np.log(7.0), 0.8, 20_000)), 1, 52).astype(int)
    return [" ".join(f"w{word}" for word in rng.integers(0, 9000, length)) for length in lengths]


def word_tokenizer(texts: Sequence[str]) -> transformers.PreTrainedTokenizerFast:
    """Give each word an id: as many tokens as SST-2's words, without a vocabulary to download."""
    words = sorted({word for text in texts for word in text.split()})
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: i for i, word in enumerate([*special, *words])}
    fast = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=fast, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=128,
    )  # fmt: skip


def minilm(vocabulary: int) -> nn.Module:
    torch.manual_seed(0)
    return BertForSequenceClassification(
        BertConfig(
            vocab_size=max(vocabulary, 30_522), hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
            intermediate_size=1536,
        )
    )  # fmt: skip


class Start(Modifier):
    """Notes when the loop begins, before its optimiser is built."""

    def on_start(self, job: TrainJob) -> None:
        self.at = time.perf_counter()


def ours(net: nn.Module, tokenizer: Any, texts: Sequence[str], steps: int, seed: int) -> float:
    """Return the examples a second of nasframe's loop, data and progress included."""
    data = Split([(text,) for text in texts], np.arange(len(texts)) % 2)
    task = TextTask({"train": data}, ["no", "yes"], ["accuracy"], "accuracy", tokenizer)
    task.tokens("train")  # the other sides' texts are tokenised beforehand, too
    start = Start()
    options = TrainOptions(max_steps=steps, batch_size=BATCH)
    Loop().fit(TrainJob(net, task, tokenizer, options, seed, "bench", modifiers=[start]))
    return steps * BATCH / (time.perf_counter() - start.at)


class Watch(transformers.TrainerCallback):
    """Notes when the Trainer's loop begins."""

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.at = time.perf_counter()


def trainers(net: nn.Module, tokenizer: Any, texts: Sequence[str], steps: int, seed: int) -> float:
    """Return the examples a second of the Hugging Face Trainer."""
    ids = tokenizer(list(texts), truncation=True, max_length=128)["input_ids"]
    rows = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": i % 2} for i, row in enumerate(ids)]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with tempfile.TemporaryDirectory() as out:
        arguments = TrainingArguments(
            out, max_steps=steps, per_device_train_batch_size=BATCH, train_sampling_strategy="group_by_length",
            bf16=native_bf16(device), use_cpu=device == "cpu", learning_rate=5e-5, warmup_steps=0.1, weight_decay=0.01,
            seed=seed, **QUIET,
        )  # fmt: skip
        watch = Watch()
        collator = DataCollatorWithPadding(tokenizer)
        trainer = Trainer(net, arguments, collator, rows, processing_class=tokenizer, callbacks=[watch])
        trainer.remove_callback(transformers.PrinterCallback)
        trainer.train()
        return steps * BATCH / (time.perf_counter() - watch.at)


def padded(net: nn.Module, tokenizer: Any, texts: Sequence[str], steps: int, seed: int) -> float:
    """Return the examples a second of a plain float32 loop in which every sentence is 128 tokens long."""
    encoded = tokenizer(list(texts), truncation=True, padding="max_length", max_length=128, return_tensors="pt")
    labels = torch.arange(len(texts)) % 2
    order = torch.randperm(len(texts), generator=torch.Generator().manual_seed(seed))
    optimizer = torch.optim.AdamW(net.train().parameters(), lr=5e-5)
    start = time.perf_counter()
    for step in range(steps):
        index = order[step * BATCH : (step + 1) * BATCH]
        inputs = {"input_ids": encoded["input_ids"][index], "attention_mask": encoded["attention_mask"][index]}
        optimizer.zero_grad()
        net(**inputs, labels=labels[index]).loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
    return steps * BATCH / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--path", type=Path, help="the SST-2 folder with train.tsv")
    parser.add_argument("--segments", type=int, default=5)
    parser.add_argument("--steps", type=int, default=200, help="steps of a segment; a twentieth for the padded loop")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    transformers.logging.set_verbosity_error()
    texts = sentences(args.path)
    tokenizer = word_tokenizer(texts)
    sides: dict[str, tuple[Callable[..., float], int]] = {
        "nasframe": (ours, args.steps),
        "Trainer": (trainers, args.steps),
        "padded": (padded, max(2, args.steps // 20)),
    }
    nets = {name: minilm(len(tokenizer)) for name in sides}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    rng = np.random.default_rng(0)
    for segment in range(args.segments + 1):
        chosen = [texts[i] for i in rng.choice(len(texts), BATCH * args.steps, replace=False)]
        for name in sorted(sides, reverse=bool(segment % 2)):
            side, steps = sides[name]
            rate = side(nets[name], tokenizer, chosen, steps if segment else 3, seed=segment)
            if segment:  # the first is warm-up
                rates[name].append(rate)
    words = statistics.mean(len(text.split()) + 2 for text in texts)
    print(f"torch {torch.__version__}, transformers {transformers.__version__}, {args.threads} threads, batch {BATCH},")
    print(f"{args.segments} segments of {args.steps} steps, {words:.1f} tokens a sentence ({args.path or 'made up'})")
    for name, values in rates.items():
        print(f"{name:10s} {statistics.median(values):8.1f} examples/s  [{min(values):.1f} – {max(values):.1f}]")
    for name, target in (("padded", 10.0), ("Trainer", 1.0)):
        ratios = sorted(a / b for a, b in zip(rates["nasframe"], rates[name], strict=True))
        middle = statistics.median(ratios)
        verdict = "reached" if middle >= target else "MISSED"
        print(
            f"nasframe / {name:8s} {middle:5.2f}×  [{ratios[0]:.2f} – {ratios[-1]:.2f}]  target ≥ {target}: {verdict}"
        )


if __name__ == "__main__":
    main()
