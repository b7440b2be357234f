"""The classification head that a checkpoint brings, and how its outputs and a task's classes find each other by name.

A checkpoint that brings the weights of a head keeps it whenever its names say which output is which class. The task
then takes over the head's order; no row of the head moves, so that exports have the order of the checkpoint.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal

from nasframe.errors import UsageError

ASK = "Expected the model's option labels: [..], the classes in the order of the head's outputs, or head: new."
RENEW = "The model's option head: new draws a new one."


@dataclass(frozen=True)
class Head:
    """The head whose weights a checkpoint brings.

    Args:
        labels: the names of its outputs, in order.
        kind: what its outputs are: ``classes`` of which one holds, ``multi_label`` of which several may, a
            ``regression``, or of ``other`` use than for whole texts.
        given: the names come from the user, not from the checkpoint.
        model: the checkpoint, as messages name it.

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
    """How a task's classes lie in a network's head.

    Args:
        labels: the classes in the order of the network's outputs.
        outputs: for each class of the task, in its own order, the output that is its.
        kept: whether the checkpoint's head is kept.
        notices: what a user should know about it, a sentence or two each.
    """

    labels: tuple[str, ...]
    outputs: tuple[int, ...]
    kept: bool
    notices: tuple[str, ...] = ()


def match(head: Head | None, classes: Sequence[str], published: bool = False) -> Match:
    """Find a task's classes in a checkpoint's head.

    Args:
        head: the head, or ``None`` where the checkpoint brings none.
        classes: the task's classes, in its own order.
        published: the task's order is the one that everybody knows, so that outputs without names are in it.

    Raises:
        UsageError: the head may well be the task's, but its names do not say which output is which class.

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
    by_name = [_outputs_called(name, head) for name in classes]
    first = [outputs[0] for outputs in by_name if outputs]
    if len(first) == len(classes) and any(len(outputs) > 1 for outputs in by_name):
        raise UsageError(
            f"model {head.model!r}: several outputs of its head have the same name: {_listed(head.labels)}. {ASK}"
        )
    if len(set(first)) == len(classes):
        return Match(head.labels, tuple(first), True, tuple(_by_name(head, classes, first)))
    if head.numbered and not head.given:
        return _by_number(head, classes, published)
    if head.given:
        raise UsageError(
            f"model.labels: {_listed(head.labels)} are not the task's classes. "
            f"Expected {_listed(classes)}, in the order of the head's outputs."
        )
    texts = [f"The checkpoint's head has {_described(head)}, the task {_listed(classes)}. The head is new."]
    if len(head.labels) >= len(classes):
        texts.append("If its outputs are the task's classes, name them in order with the model's option labels: [..].")
    return _new(classes, " ".join(texts))


def number(text: str) -> Decimal | None:
    """Read a class's name as a number, exactly; ``None`` where it is none.

    >>> number("7") == number("007") == number("7.0"), number("nan"), number("seven")
    (True, None, None)
    """
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() else None


def alike(name: str) -> str:
    """Return what two spellings of a name share, whatever their case and spaces; an underscore is a space.

    >>> alike("Not Equivalent") == alike("not_equivalent")
    True
    """
    return re.sub(r"[\s_]+", "", name.casefold())


def _outputs_called(name: str, head: Head) -> list[int]:
    """Return the outputs of a name: as it is spelled, or else in another case or with other spaces."""
    exact = [output for output, label in enumerate(head.labels) if label == name]
    return exact or [output for output, label in enumerate(head.labels) if alike(label) == alike(name)]


def _by_name(head: Head, classes: Sequence[str], outputs: Sequence[int]) -> Iterator[str]:
    """Say what taking over a head's names changes for the task."""
    respelled = [
        f"{name!r} is its {head.labels[output]!r}"
        for name, output in zip(classes, outputs, strict=True)
        if head.labels[output] != name
    ]
    if len(classes) < len(head.labels):
        more = [label for output, label in enumerate(head.labels) if output not in outputs]
        yield f"The checkpoint's head is kept whole, with classes that the data lack: {_listed(more)}. {RENEW}"
    if list(outputs) != sorted(outputs):
        yield f"Classes are in the order of the checkpoint's head: {_listed(head.labels)}."
    if respelled:
        yield f"Classes are spelled as in the checkpoint: {', '.join(respelled)}."
    if head.kind == "multi_label":
        yield (
            "The checkpoint's head was trained to say yes or no to each class by itself (multi_label_classification). "
            "It is kept; here the class of its largest output counts, and training uses the cross-entropy."
        )


def _by_number(head: Head, classes: Sequence[str], published: bool) -> Match:
    """Match a head whose outputs are only numbered: by classes that are numbers, or in a published order."""
    count = len(head.labels)
    numbers = [number(name) for name in classes]
    places = [int(value) for value in numbers if value is not None and value == int(value) and 0 <= value < count]
    # Numbers that begin at 1 may count from 1: then they are no outputs, unless each output is named.
    counts_from_zero = 0 in places or len(classes) == count
    if len(set(places)) == len(classes) and counts_from_zero:
        labels = [str(output) for output in range(count)]
        for name, place in zip(classes, places, strict=True):
            labels[place] = name
        outputs = tuple(places)
    elif count != len(classes) and len(set(places)) < len(classes):
        text = f"The checkpoint's head has {count} outputs, the task {len(classes)} classes. The head is new."
        return _new(classes, text)
    elif published and count == len(classes):
        labels, outputs = list(classes), tuple(range(count))
    else:
        raise UsageError(
            f"model {head.model!r}: the outputs of its head are called {_listed(head.labels)}, which does not say "
            f"which of the task's classes each is: {_listed(classes)}. {ASK}"
        )
    named = ", ".join(f"{label} is {name!r}" for label, name in zip(head.labels, labels, strict=True))
    text = f"The outputs of the checkpoint's head have only numbers. It is kept, and read as follows: {named}. {RENEW}"
    return Match(tuple(labels), outputs, True, (text,))


def _new(classes: Sequence[str], *notices: str) -> Match:
    return Match(tuple(classes), tuple(range(len(classes))), False, notices)


def _described(head: Head) -> str:
    repeated = any(times > 1 for times in Counter(head.labels).values())
    return f"{len(head.labels)} outputs called {_listed(head.labels)}" if repeated else _listed(head.labels)


def _listed(names: Sequence[str], most: int = 12) -> str:
    """Write names in their order; of many only the first."""
    shown = ", ".join(repr(name) for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
