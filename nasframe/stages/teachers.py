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


def require_same_tokens(teachers: Any, models: Any, max_length: int | None) -> None:
    """Make sure that a teacher reads the inputs that the task makes for the model.

    Args:
        teachers: the teacher's tokenizer; ``None`` if it reads no texts.
        models: the model's tokenizer, likewise.
        max_length: tokens after which the task cuts texts, if the recipe says so.

    Raises:
        UsageError: the same text would be other tokens for it, or more than it can read.
    """
    if teachers is None or models is None:
        if teachers is not models:
            raise UsageError("teacher: it does not read what the model reads. Expected texts for both, or for neither.")
        return
    expected = "Expected a teacher with the model's own tokenizer."
    if _token_facts(teachers) != _token_facts(models):
        raise UsageError(
            "teacher: its tokenizer is not the model's, so the ids of the model's tokens mean other words to it. "
            f"{expected}"
        )
    # A network that tells the texts of a pair apart, and is not given their types, would read a pair as one text.
    of_teacher = set(teachers.model_input_names)
    of_model = set(models.model_input_names)
    if of_teacher != of_model:
        names = ", ".join(sorted(of_teacher ^ of_model))
        raise UsageError(f"teacher: one of it and the model reads {names}, and the other does not. {expected}")
    longest = int(models.model_max_length)
    if max_length is not None:
        longest = min(longest, max_length)
    if teachers.model_max_length < longest:
        raise UsageError(
            f"teacher: it reads at most {teachers.model_max_length} tokens, and texts have up to {longest}. Expected "
            f"'task.max_length: {teachers.model_max_length}' or less."
        )


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
