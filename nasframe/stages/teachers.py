"""Whether a network can be a recipe's teacher as it stands: it is trained, and reads the model's tokens."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from nasframe.errors import UsageError
from nasframe.interfaces import CheckpointModel

EXPECTED = "Expected a checkpoint that was fine-tuned for the task; without 'teacher:' a stage can train one."


def require_trained(teacher: Any, labels: Sequence[str] | None) -> None:
    """Make sure that a teacher's weights all come from its checkpoint.

    Args:
        teacher: the model that it is loaded from. One that cannot tell is taken at its word.
        labels: the task's classes in the order of the outputs; ``None`` for regression.

    Raises:
        UsageError: some would be drawn; says which.
    """
    if not isinstance(teacher, CheckpointModel):
        return
    fault = teacher.untrained(labels)
    if fault:
        raise UsageError(f"teacher: {fault}. {EXPECTED}")


TYPES = "token_type_ids"
"""The input that says of each token to which text of a pair it belongs."""


def require_same_tokens(
    teacher_tokenizer: Any, model_tokenizer: Any, max_length: int | None, texts: int | None = None
) -> None:
    """Make sure that a teacher reads the inputs that the task makes for the model.

    Args:
        teacher_tokenizer: the teacher's; ``None`` if it reads no texts.
        model_tokenizer: the model's, likewise.
        max_length: tokens after which the task cuts texts, if the recipe says so.
        texts: how many texts an example has; ``None`` if the task does not say.

    Raises:
        UsageError: the same text would be other tokens for it, or more than it can read.
    """
    if teacher_tokenizer is None or model_tokenizer is None:
        if teacher_tokenizer is not model_tokenizer:
            raise UsageError("teacher: it does not read what the model reads. Expected texts for both, or for neither.")
        return
    expected = "Expected a teacher with the model's own tokenizer."
    if _token_facts(teacher_tokenizer) != _token_facts(model_tokenizer):
        raise UsageError(
            "teacher: its tokenizer is not the model's, so the ids of the model's tokens mean other words to it. "
            f"{expected}"
        )
    _require_same_inputs(teacher_tokenizer, model_tokenizer, texts, expected)
    longest = int(model_tokenizer.model_max_length)
    if max_length is not None:
        longest = min(longest, max_length)
    limit = int(teacher_tokenizer.model_max_length)
    if limit < longest:
        raise UsageError(
            f"teacher: it reads at most {limit} tokens, and texts have up to {longest}. Expected "
            f"'task.max_length: {limit}' or less."
        )


def _require_same_inputs(teacher_tokenizer: Any, model_tokenizer: Any, texts: int | None, expected: str) -> None:
    """Make sure that what the task makes for the model is all that the teacher reads."""
    teacher_inputs = set(teacher_tokenizer.model_input_names)
    model_inputs = set(model_tokenizer.model_input_names)
    if teacher_inputs == model_inputs:
        return
    if teacher_inputs - model_inputs == {TYPES} and model_inputs <= teacher_inputs:
        # Networks take the types for zeros if they are not given, and so the types of a single text are.
        if texts == 1 and not any(teacher_tokenizer("text")[TYPES]):
            return
        raise UsageError(
            f"teacher: it tells the two texts of a pair apart by {TYPES}, which the model does not read. Given the "
            "model's inputs, it would read a pair as one text. Expected single texts, or a teacher that reads what the "
            "model does."
        )
    names = ", ".join(sorted(teacher_inputs ^ model_inputs))
    raise UsageError(f"teacher: only one of the teacher and the model reads {names}. {expected}")


def _token_facts(tokenizer: Any) -> tuple[str, int | None]:
    """Return what decides which ids a text becomes: the whole tokenizer without its class and its lengths."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # tokenizers written in Python are compared by their vocabularies
        facts = {"vocabulary": tokenizer.get_vocab()}
    else:
        facts = json.loads(backend.to_str())
        for key in ("truncation", "padding"):  # each call sets them
            facts.pop(key, None)
    return json.dumps(facts, sort_keys=True), tokenizer.pad_token_id
