"""Matches the outputs of a checkpoint's classification head with a task's classes, by their names.

A checkpoint's head is kept whenever its names say which output is which class. The task then takes over the head's
order of classes. No row of the head moves, so that exports have the order of the checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from nasframe.errors import UsageError
from nasframe.labels import are_independent

ASK = "Expected the model's option labels: [..], the classes in the order of the head's outputs, or head: new."
RENEW = "The model's option head: new draws a new one."


@dataclass(frozen=True)
class Head:
    """The head whose weights a checkpoint brings.

    Args:
        labels: the names of its outputs, in order.
        kind: ``classes``, one of which is true; ``multi_label``, several of which may be; ``regression``; or ``other``
            for a head that does not classify whole texts.
        given: whether the names come from the user, not from the checkpoint.
        model: the checkpoint's name in messages.

    >>> Head(("LABEL_0", "LABEL_1")).numbered
    True
    """

    labels: tuple[str, ...]
    kind: Literal["classes", "multi_label", "regression", "other"] = "classes"
    given: bool = False
    model: str = ""

    @property
    def numbered(self) -> bool:
        """Whether its names are only the numbers of its outputs: ``LABEL_0``, ``LABEL_1`` …"""
        return all(name.casefold() == f"label_{number}" for number, name in enumerate(self.labels))


@dataclass(frozen=True)
class Match:
    """Which output of a network's head belongs to which class of a task.

    Args:
        labels: the classes in the order of the network's outputs.
        outputs: the output of each class, in the task's own order of classes.
        kept: whether the checkpoint's head is kept.
        notices: remarks for the user, a sentence or two each.
    """

    labels: tuple[str, ...]
    outputs: tuple[int, ...]
    kept: bool
    notices: tuple[str, ...] = ()


def match(head: Head | None, classes: Sequence[str], published: bool = False) -> Match:
    """Find a task's classes in a checkpoint's head.

    Args:
        head: the head, or ``None`` if the checkpoint has none.
        classes: the task's classes, in its own order; :class:`~nasframe.labels.IndependentLabels` if several may hold
            at once.
        published: whether the task's order is the published one, which a head without names then has, too.

    Returns:
        The match; a head that is not the task's is not kept.

    Raises:
        UsageError: the head may be the task's, but its names do not say which output is which class.

    >>> match(Head(("pos", "neg")), ["neg", "pos"]).labels
    ('pos', 'neg')
    """
    if head is None:
        return _new(classes)
    if head.kind == "other":
        saved = ", ".join(head.labels)
        return _new(classes, f"The checkpoint's head is not for whole texts ({saved}). The head is new.")
    if head.kind == "regression":
        text = "The checkpoint's head has one output, for scores. The head for the task's classes is new."
        return _new(classes, text)
    # Names first, numbers only if there are no names: a wrong order would go unnoticed and ruin every result.
    outputs = _outputs_by_name(head, classes)
    if outputs is not None:
        return Match(head.labels, outputs, True, tuple(_by_name(head, classes, outputs)))
    if head.numbered and not head.given:
        return _by_number(head, classes, published)
    if head.given:
        raise UsageError(
            f"model.labels: {_listed(head.labels)} are not the task's classes. "
            f"Expected {_listed(classes)}, in the order of the head's outputs."
        )
    text = f"The checkpoint's head has {_described(head)}, the task {_listed(classes)}. The head is new."
    if len(head.labels) >= len(classes):
        text += " If its outputs are the task's classes, name them in order with the model's option labels: [..]."
    return _new(classes, text)


def number(text: str) -> Decimal | None:
    """Return a class's name as an exact number, or ``None`` if it is not a number.

    >>> number("7") == number("007") == number("7.0"), number("nan"), number("seven")
    (True, None, None)
    """
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def alike(name: str) -> str:
    """Return a name without case, spaces and underscores, so that two spellings of it are equal.

    >>> alike("Not Equivalent") == alike("not_equivalent")
    True
    """
    return re.sub(r"[\s_]+", "", name.casefold())


def _outputs_by_name(head: Head, classes: Sequence[str]) -> tuple[int, ...] | None:
    """Return the output of each class by its name, ``None`` if some classes have none or share one.

    Raises:
        UsageError: every class has an output, but one of them has several.
    """
    candidates = [_outputs_called(name, head) for name in classes]
    if not all(candidates):
        return None
    if any(len(outputs) > 1 for outputs in candidates):
        raise UsageError(
            f"model {head.model!r}: several outputs of its head have the same name: {_listed(head.labels)}. {ASK}"
        )
    outputs = tuple(outputs[0] for outputs in candidates)
    return outputs if len(set(outputs)) == len(classes) else None


def _outputs_called(name: str, head: Head) -> list[int]:
    """Return the outputs with a name: as it is spelled, or else in another case or with other spaces."""
    exact = [output for output, label in enumerate(head.labels) if label == name]
    if exact:  # so that the classes "us" and "US" of one task stay apart
        return exact
    return [output for output, label in enumerate(head.labels) if alike(label) == alike(name)]


def _by_name(head: Head, classes: Sequence[str], outputs: Sequence[int]) -> Iterator[str]:
    """Yield remarks on how the head's names and order change the task's."""
    respelled = []
    for name, output in zip(classes, outputs, strict=True):
        if head.labels[output] != name:
            respelled.append(f"{name!r} is its {head.labels[output]!r}")
    if len(classes) < len(head.labels):
        more = [label for output, label in enumerate(head.labels) if output not in outputs]
        yield f"The checkpoint's head is kept whole, with classes that the data lack: {_listed(more)}. {RENEW}"
    if list(outputs) != sorted(outputs):
        yield f"Classes are in the order of the checkpoint's head: {_listed(head.labels)}."
    if respelled:
        yield f"Classes are spelled as in the checkpoint: {', '.join(respelled)}."
    if are_independent(classes) and head.kind == "classes":
        yield (
            "The checkpoint's head was trained to choose one of its classes (single_label_classification). It is kept; "
            "here each output says yes or no by itself, which it has to learn."
        )
    if head.kind == "multi_label" and not are_independent(classes):
        yield (
            "The checkpoint's head was trained to say yes or no to each class by itself (multi_label_classification). "
            "It is kept; here the class of its largest output counts, and training uses the cross-entropy."
        )


def _by_number(head: Head, classes: Sequence[str], published: bool) -> Match:
    """Match a head whose outputs only have numbers: by classes that are numbers, or in a published order."""
    count = len(head.labels)
    places = _places(classes, count)
    each_is_an_output = len(set(places)) == len(classes)
    # Numbers that begin at 1 may count from 1: then they are no outputs, unless each output is named.
    counts_from_zero = 0 in places or len(classes) == count
    if each_is_an_output and counts_from_zero:
        labels = [str(output) for output in range(count)]
        for name, place in zip(classes, places, strict=True):
            labels[place] = name
        outputs = tuple(places)
    elif count != len(classes) and not each_is_an_output:
        text = f"The checkpoint's head has {count} outputs, the task {len(classes)} classes. The head is new."
        return _new(classes, text)
    elif published and count == len(classes):
        labels = list(classes)
        outputs = tuple(range(count))
    else:
        raise UsageError(
            f"model {head.model!r}: the outputs of its head are called {_listed(head.labels)}, which does not say "
            f"which of the task's classes each is: {_listed(classes)}. {ASK}"
        )
    named = ", ".join(f"{label} is {name!r}" for label, name in zip(head.labels, labels, strict=True))
    text = f"The outputs of the checkpoint's head have only numbers. It is kept, and read as follows: {named}. {RENEW}"
    return Match(tuple(labels), outputs, True, (text,))


def _places(classes: Sequence[str], count: int) -> list[int]:
    """Return the classes that are numbers of outputs, of which there are ``count``."""
    places = []
    for name in classes:
        value = number(name)
        if value is not None and value == int(value) and 0 <= value < count:
            places.append(int(value))
    return places


def _new(classes: Sequence[str], *notices: str) -> Match:
    return Match(tuple(classes), tuple(range(len(classes))), False, notices)


def _described(head: Head) -> str:
    """Write the names of a head's outputs, with their number if that shows why they fit no classes."""
    names = _listed(head.labels)
    has_repeats = len(set(head.labels)) < len(head.labels)
    return f"{len(head.labels)} outputs called {names}" if has_repeats else names


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Write names in their order, at most the first ``most``."""
    shown = ", ".join(map(repr, names[:most]))
    if len(names) <= most:
        return shown
    return f"{shown} and {len(names) - most} more"
