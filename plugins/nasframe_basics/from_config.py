"""Model ``from_config``: any network of transformers, made from a configuration in the recipe, with random weights."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.errors import RecipeError, UsageError, suggestion
from nasframe.notices import Notify, say
from nasframe.weights import Source, quiet, reason, refusal
from nasframe_basics import bpe
from nasframe_basics.heads import is_classifier
from nasframe_basics.models import SEQUENCE, adapt, embedding_rows, head_fields, longest_input, reads_texts
from nasframe_basics.rows import located
from nasframe_basics.tokenizers import highest_id, load_tokenizer, misfits

if TYPE_CHECKING:
    from torch import nn

OF_THE_TASK = frozenset({"num_labels", "id2label", "label2id", "problem_type"})
"""Fields of a configuration that the task decides on."""
OF_THE_FRAMEWORK = frozenset(
    {"architectures", "auto_map", "dtype", "model_type", "torch_dtype", "transformers_version"}
)
"""Fields that mean nothing here, or have another place."""


class FromConfig:
    """A network of transformers with random weights, in float32, whose head is the task's.

    Args:
        type: the ``model_type`` of transformers, such as ``vit``, ``llama`` or ``bert``.
        configuration: the fields of its configuration, such as ``{hidden_size: 64, num_hidden_layers: 4}``; the
            defaults of the others are transformers', which are those of a large model.
        tokens: ``bpe`` makes a byte-level BPE tokenizer of ``vocab_size`` tokens from the task's training texts; a
            directory or a hub id names a tokenizer to load. A network that reads images needs none.
        attention: which of transformers' attention functions to use.
        auto_class: injected; the auto class of transformers that has the head which the task needs.
        base: injected; the folder that a relative ``tokens`` belongs to.
        notify: injected; receives notices about tokens that do not occur.

    Raises:
        UsageError: on use, if the type or a field does not exist, transformers refuses the sizes, or the tokenizer does
            not fit.

    >>> sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    >>> model = FromConfig("vit", {**sizes, "image_size": 8, "patch_size": 2, "num_channels": 1},
    ...                    auto_class="AutoModelForImageClassification")
    >>> net = model.load(["no", "yes"], seed=0)
    >>> net.config.id2label, model.tokenizer()
    ({0: 'no', 1: 'yes'}, None)
    """

    def __init__(
        self,
        type: str,
        configuration: Mapping[str, Any] | None = None,
        tokens: Literal["bpe"] | Path | str | None = None,
        attention: Literal["sdpa", "eager"] = "sdpa",
        auto_class: str = SEQUENCE,
        base: Path | None = None,
        notify: Notify = say,
    ) -> None:
        self.type = type
        self.fields = dict(configuration or {})
        self.attention = attention
        self._tokens = tokens
        self._auto = auto_class
        self._base = base
        self._notify = notify
        self._meta_net: Any = None

    @staticmethod
    def faults(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
        """Yield fields of the configuration that have another place."""
        fields = options.get("configuration")
        if not isinstance(fields, Mapping):
            return
        for name in fields:
            if name in OF_THE_TASK:
                yield ("configuration", name), "follows from the task. Expected no such field."
            elif name in OF_THE_FRAMEWORK:
                hint = " The option type names it." if name == "model_type" else ""
                yield ("configuration", name), f"is not a size of the network. Expected no such field.{hint}"

    # ---- tokenizer

    def makes_tokenizer(self) -> bool:
        """Tell whether the tokenizer is made from the task's training texts."""
        return self._tokens == "bpe"

    def make_tokenizer(self, texts: Iterable[str]) -> Any:
        """Return the byte-level BPE tokenizer of the texts."""
        net = self._net()
        tokenizer = bpe.made(texts, net.config.vocab_size, longest_input(net), self._is_encoder())
        ids = highest_id(tokenizer) + 1
        rows = embedding_rows(net)
        if ids < rows:
            self._notify("model.tokens", f"The texts give {ids} tokens of {rows}. The other rows are never used.")
        return tokenizer

    def tokenizer(self) -> Any:
        """Return the tokenizer, ``None`` for a network of images; one that is still to be made has bytes as tokens.

        Raises:
            UsageError: it does not fit the network, or the network reads texts and there is none.
        """
        return self._made_or_loaded(local=False, notify=self._notify)

    def local_tokenizer(self) -> Any:
        """Return the tokenizer as :meth:`tokenizer` does; ``None`` if it takes a download, or does not fit."""
        try:
            return self._made_or_loaded(local=True, notify=lambda place, text: None)
        except UsageError:  # validate reports the problem
            return None

    def _made_or_loaded(self, local: bool, notify: Notify) -> Any:
        net = self._net()
        if self._tokens is None:
            if reads_texts(net):
                raise refusal("tokens", [f"missing: {self.type} reads token ids. Expected bpe, or a tokenizer's path."])
            return None
        if not reads_texts(net):
            raise refusal("tokens", [f"{self.type} reads no token ids. Expected no tokenizer."])
        if self._tokens == "bpe":
            return bpe.untrained(net.config.vocab_size, longest_input(net), self._is_encoder())
        folder = located(self._tokens, self._base)
        source = Source(str(folder) if folder.is_dir() else str(self._tokens), local=local)
        tokenizer = load_tokenizer(source)
        if tokenizer is None:
            return None
        problems = list(misfits(tokenizer, net.config, embedding_rows(net), source.path))
        if problems:
            raise UsageError("\n".join(problems))
        adapt(tokenizer, net, notify)
        return tokenizer

    def _is_encoder(self) -> bool:
        return self._auto != "AutoModelForCausalLM"

    # ---- network

    def validate(self) -> None:
        """Refuse, before any work, a configuration or a tokenizer that transformers does not accept.

        Raises:
            RecipeError: the problem, with the option.
        """
        try:
            self._made_or_loaded(local=True, notify=lambda place, text: None)
        except RecipeError:
            raise
        except UsageError as error:
            raise refusal("tokens", [str(error)]) from None

    def skeleton(self) -> nn.Module | None:
        """Return the network without values, on the meta device; ``None`` if there is no such network."""
        try:
            return copy.deepcopy(self._net())  # type: ignore[no-any-return]  # transforms and modifiers change it
        except UsageError:  # validate reports the problem
            return None

    def files(self) -> list[Path]:
        """Return the tokenizer's directory, if there is one."""
        if self._tokens is None or self._tokens == "bpe":
            return []
        folder = located(self._tokens, self._base)
        return [folder] if folder.is_dir() else []

    def untrained(self, labels: Sequence[str] | None = None, *, local: bool = False) -> str:
        """Return that all weights are drawn, so that no recipe takes such a network for a trained teacher."""
        return "from_config draws all of its weights"

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Make the network, in eval mode, with weights drawn by ``seed``.

        Args:
            labels: the class names in the order of the outputs; ``None`` is one output, for regression, or a head that
                has no classes.
            seed: draws every weight; torch's own generator is left as it was.
            random: changes nothing, as all weights are random.

        Raises:
            UsageError: the configuration does not fit.
        """
        import torch

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            fields = head_fields(labels) if is_classifier(self._auto) else {}
            return self._built(fields).eval()

    def _net(self) -> Any:
        """Return the network on the meta device, made once."""
        import torch

        if self._meta_net is None:
            with torch.device("meta"):
                self._meta_net = self._built({})
        return self._meta_net

    def _built(self, of_task: Mapping[str, Any]) -> Any:
        import torch
        import transformers

        config = self._config(of_task)
        auto = getattr(transformers, self._auto)
        choices = auto._model_mapping.get(type(config), None)
        if isinstance(choices, tuple) and config.architectures is None:
            # Of DeiT there are two classes with a head, and a configuration says which one it is of.
            config.architectures = [choices[0].__name__]
        with quiet(), self._named_errors():
            return auto.from_config(config, attn_implementation=self.attention, dtype=torch.float32)

    def _config(self, of_task: Mapping[str, Any]) -> Any:
        """Return the configuration.

        Raises:
            RecipeError: a type or fields that do not exist, or values that transformers refuses.
        """
        from transformers import CONFIG_MAPPING, AutoConfig

        if self.type not in CONFIG_MAPPING:
            hint = suggestion(self.type, CONFIG_MAPPING.keys())
            raise refusal("type", [f"transformers has no model_type {self.type!r}.{hint}"])
        with quiet(), self._named_errors():
            config_class = CONFIG_MAPPING[self.type]
            synonyms = getattr(config_class, "attribute_map", {})
            known = {*config_class().to_dict(), *synonyms}
        problems = []
        for name in self.fields:
            if name not in known:  # transformers would keep it and not use it
                problems.append(f"{self.type} has no field {name!r}.{suggestion(name, known)}")
        if problems:
            raise refusal("configuration", problems)
        fields = {**self._token_ids(known), **self.fields, **of_task}
        if self._auto == "AutoModelForCausalLM" and "use_cache" in known:
            fields.setdefault("use_cache", False)  # training and evaluation read whole blocks
        with quiet(), self._named_errors():
            return AutoConfig.for_model(self.type, **fields)

    def _token_ids(self, known: Iterable[str]) -> dict[str, int]:
        """Return the ids of the special tokens, if the tokenizer is made here."""
        if self._tokens != "bpe":
            return {}
        if "vocab_size" not in self.fields:
            text = "vocab_size: missing. Expected the number of tokens that the tokenizer has."
            raise refusal("configuration", [text])
        return {field: token_id for field, token_id in bpe.special_ids().items() if field in known}

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn the exceptions that transformers raises for sizes that do not fit into errors of ``configuration``."""
        try:
            yield
        except (UsageError, MemoryError):
            raise
        except Exception as error:  # transformers has no base class for them
            text = f"{self.type}: transformers refuses it for {self._auto}: {reason(error)}"
            raise refusal("configuration", [text]) from error
