"""Task ``image_classification``: your own images, in a folder by class or in arrays, or scikit-learn's digits.

The way of the data: folders or files become tables of images (:mod:`nasframe_basics.images`), tables become splits, and
splits become an ``ImageTask``. What the task decides or notices on the way goes to ``notify``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from nasframe.errors import UsageError, suggestion
from nasframe.heads import Head
from nasframe.measures import measures
from nasframe.notices import Notify, say
from nasframe.records import Batch, Count, DataSource, DataSummary, Portion, Positive, Share, Size
from nasframe_basics.classes import ordered, refuse_no_label, same_looking
from nasframe_basics.images import (
    ARRAYS,
    Channels,
    ImageTable,
    Shape,
    array_names,
    image_digests,
    path_fault,
    read_images,
    sklearn_digits,
)
from nasframe_basics.labelled import ClassWeights, LabelledTask
from nasframe_basics.metrics import formats
from nasframe_basics.rows import located
from nasframe_basics.splits import Split, carve
from nasframe_basics.summary import Source, data_notices, pass_on, split_notices, summarise

METRICS = ("accuracy", "macro_f1", "mcc")


@dataclass(frozen=True)
class ImageSplit(Split):
    """Images as read; ``texts`` are their digests, so that equal images stay together.

    Args:
        pixels: ``(examples, height, width, channels)``, bytes or numbers from 0 to 1.
    """

    pixels: np.ndarray

    def take(self, index: np.ndarray) -> ImageSplit:
        """Return the examples at ``index``, in that order."""
        texts = [self.texts[i] for i in index]
        return ImageSplit(texts, self.labels[index], self.pixels[index])


class ImageTask(LabelledTask):
    """Classify images.

    Args:
        splits: ``train``, ``select``, ``dev``.
        labels: the class names in index order.
        mean: what is subtracted from each channel of the pixels, which go from 0 to 1.
        std: what each channel is divided by then.
        sources: the files that the splits were read from, for the summary.
        primary: the metric that a search maximises; default: ``accuracy``.
        options: of :class:`~nasframe_basics.labelled.LabelledTask`.

    >>> pixels = np.zeros((2, 4, 4, 1), dtype=np.uint8)
    >>> data = {"dev": ImageSplit([("a",), ("b",)], np.array([1, 0]), pixels)}
    >>> task = ImageTask(data, ["cat", "dog"], mean=[0.5], std=[0.25])
    >>> task.batch("dev", np.array([0])).inputs["pixel_values"][0, 0, 0]
    tensor([-2., -2., -2., -2.])
    """

    def __init__(
        self,
        splits: Mapping[str, ImageSplit],
        labels: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        sources: Sequence[DataSource] = (),
        primary: str | None = None,
        **options: Any,
    ) -> None:
        self._pixels = {name: split.pixels for name, split in splits.items()}
        super().__init__(splits, labels, METRICS, primary or METRICS[0], **options)
        self.mean = np.array(mean, dtype=np.float32)
        self.std = np.array(std, dtype=np.float32)
        self._sources = sources

    @cached_property
    def summary(self) -> DataSummary:
        """The data in numbers: images, copies and classes, split by split."""
        return summarise(self._splits, self.labels, self._sources, noun="image")

    def image_processor(self) -> dict[str, Any]:
        """Return the settings with which ``ViTImageProcessor`` of transformers prepares images as this task does.

        It takes images of bytes; for arrays of fractions, call it with ``do_rescale=False``. Images of other modes than
        the network's have to be converted first (``image.convert("L")`` or ``"RGB"``). Images of other sizes are
        resized bilinearly in both, but not bit for bit to the same pixels.
        """
        height, width, channels = self._pixels["train"].shape[1:]
        return {
            "image_processor_type": "ViTImageProcessor",
            "do_resize": True,
            "size": {"height": int(height), "width": int(width)},
            "resample": 2,  # bilinear
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [float(value) for value in np.broadcast_to(self.mean, channels)],
            "image_std": [float(value) for value in np.broadcast_to(self.std, channels)],
        }

    def batch(self, split: str, index: np.ndarray) -> Batch:
        """Gather the images at ``index`` of a split, ``(batch, channels, height, width)``."""
        import torch

        pixels = as_fractions(self._pixels[split][index])
        normal = (pixels - self.mean) / self.std
        channels_first = np.ascontiguousarray(normal.transpose(0, 3, 1, 2))
        labels = self._splits[split].labels[index].astype(np.int64)
        ids = index.astype(np.int64)
        inputs = {"pixel_values": torch.from_numpy(channels_first)}
        return Batch(inputs, torch.from_numpy(labels), torch.from_numpy(ids))


def as_fractions(pixels: np.ndarray) -> np.ndarray:
    """Return pixels as numbers from 0 to 1, in float32."""
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / np.float32(255)
    return pixels.astype(np.float32)


@measures(lambda options, space: formats(METRICS))
def image_classification(
    train: Path | str | None = None,
    dev: Path | str | None = None,
    sklearn: Literal["digits"] | None = None,
    image_size: Size | tuple[Size, Size] | None = None,
    channels: Channels | None = None,
    mean: list[Share] | None = None,
    std: list[Positive] | None = None,
    metric: str | None = None,
    class_weights: ClassWeights | None = None,
    select: Portion = "10%",
    dev_share: Portion = "20%",
    train_limit: Count | None = None,
    seed: int = 0,
    base: Path | None = None,
    config: Any = None,
    saved_head: Head | None = None,
    notify: Notify = say,
) -> ImageTask:
    """Classify images from a folder by class, from arrays, or from scikit-learn.

    A folder holds one folder a class, ``train/cat/1.png``, of PNG, JPEG, BMP or WebP files. A ``.npz`` file holds
    ``images``, ``(images, height, width)`` or with 1 or 3 channels behind, as bytes or as fractions from 0 to 1;
    ``labels``; and optionally ``classes``, their names. The classes are those of the training data, numbers by value
    and then texts alphabetically, or in the order of the checkpoint's head if it brings one. Equal images stay in one
    split. All images are kept in memory.

    Args:
        train: the folder or file of the training images.
        dev: the folder or file to report on; without it, ``dev_share`` of the training images is set aside.
        sklearn: images that scikit-learn brings, in place of ``train``: ``digits``, 1,797 images of 8 × 8 pixels.
        image_size: pixels of each side, or ``[height, width]``, to which images are resized; default: what the network
            reads, or else the size of the files, which must be the same for all.
        channels: 1 is grey, 3 is colour; default: what the network reads, or else colour if some image has colours.
        mean: subtracted from each channel, whose pixels go from 0 to 1; default: the mean of the training images.
        std: each channel is divided by it then; default: the standard deviation of the training images.
        metric: the primary metric: ``accuracy`` (default), ``macro_f1`` or ``mcc``.
        class_weights: class → weight in the training loss, 1 for classes that are not named; ``balanced`` makes all
            classes count equally. Metrics are not weighted.
        select: share or number of training examples that are set aside, by ``seed``, for making choices; none of them
            is in ``train``.
        dev_share: share or number of the examples set aside for ``dev``, if no ``dev`` is given.
        train_limit: keep at most this many training examples; a share for ``select`` then refers to this number.
        seed: injected; draws the splits.
        base: injected; the folder that relative file names belong to.
        config: injected; the network's configuration, whose ``image_size`` and ``num_channels`` are the defaults.
        saved_head: injected; the checkpoint's head, whose order of classes the task takes over.
        notify: injected; receives what the task decides by itself.

    Raises:
        UsageError: a folder, a file or a row is not as expected; the message names it.

    >>> task = image_classification(sklearn="digits")
    >>> dict(task.sizes), task.batch("dev", np.array([0])).inputs["pixel_values"].shape
    ({'train': 1294, 'select': 144, 'dev': 359}, torch.Size([1, 1, 8, 8]))
    """
    for place, text in _faults({"train": train, "dev": dev, "sklearn": sklearn, "mean": mean, "std": std}):
        raise UsageError(f"image_classification: {'.'.join(place)}: {text}")
    shape = wanted_shape(image_size, channels, config)
    tables = _tables(train, dev, sklearn, shape, base)
    refuse_no_label(tables[0].labels, tables[0].places, "labels")
    counts = Counter(tables[0].labels)
    if len(counts) < 2:
        raise UsageError(f"{tables[0].name}: all images are of class {tables[0].labels[0]!r}. Expected two or more.")
    labels = ordered(set(counts))
    sources = [_source(table, labels) for table in tables]
    pass_on(data_notices(sources, labels, "image"), notify)
    _notify_same_looking(labels, tables[0].name, notify)

    splits: dict[str, Any] = {source.split: source.data for source in sources}
    if "dev" not in splits:
        # Carved before `select`, so that `dev` is the same whatever `select` and `train_limit` are.
        rest, dev_data = carve(splits["train"], dev_share, None, seed, "dev")
        splits = {"train": rest, "dev": dev_data}
    training, selection = carve(splits["train"], select, train_limit, seed)
    splits = {"train": training, "select": selection, "dev": splits["dev"]}
    pass_on(split_notices(splits, labels), notify)
    offsets, scales = _normalisation(splits["train"].pixels, mean, std)
    return ImageTask(
        splits,
        labels,
        offsets,
        scales,
        sources=[source.counts for source in sources],
        primary=metric,
        seed=seed,
        notify=notify,
        saved_head=saved_head,
        class_weights=class_weights,
    )


def _faults(options: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield rules about options that types cannot express."""
    is_given = {name: options.get(name) is not None for name in ("train", "dev", "sklearn", "mean", "std")}
    if is_given["sklearn"] and is_given["train"]:
        yield ("sklearn",), "the images are named twice. Expected either train or sklearn."
    if not is_given["sklearn"] and not is_given["train"]:
        yield ("train",), "missing. Expected a folder with one folder a class, a file 'NAME.npz', or sklearn: digits."
    if is_given["dev"] and not is_given["train"]:
        yield ("dev",), "needs train. Expected both, or dev_share."
    if is_given["mean"] != is_given["std"]:
        name = "std" if is_given["mean"] else "mean"
        yield (name,), "missing. Expected mean and std, or none of the two."


def _on_files(options: Mapping[str, Any], base: Path) -> Iterator[tuple[str, str]]:
    """Yield the options that name no images, each with its problem; the images themselves are not read."""
    for name in ("train", "dev"):
        if not options.get(name):
            continue
        path = located(options[name], base)
        fault = path_fault(path)
        if fault:
            yield name, f"{path}: {fault}"
        elif path.is_file():
            names = array_names(path)
            for wanted in ARRAYS:
                if names and wanted not in names:
                    listed = ", ".join(map(repr, names))
                    yield name, f"{path}: no array {wanted!r}. There are: {listed}.{suggestion(wanted, names)}"


image_classification.faults = _faults  # type: ignore[attr-defined]
image_classification.on_files = _on_files  # type: ignore[attr-defined]
image_classification.auto_class = "AutoModelForImageClassification"  # type: ignore[attr-defined]


def wanted_shape(size: int | tuple[int, int] | None, channels: int | None, config: Any) -> Shape:
    """Return the shape that images get: the recipe's, or what the network reads.

    Args:
        size: of the recipe.
        channels: of the recipe.
        config: the network's configuration, if there is one.

    Raises:
        UsageError: the network reads another size or number of channels than the recipe says.
    """
    given = _shape(size, channels)
    if config is None:
        return given
    read = _shape(getattr(config, "image_size", None), getattr(config, "num_channels", None))
    _refuse_other("image_size", given.size, read.size)
    _refuse_other("channels", given.channels, read.channels)
    height, width = given.size or read.size or (None, None)
    return Shape(height, width, given.channels or read.channels)


def _refuse_other(option: str, given: Any, read: Any) -> None:
    """Refuse an option that says something else than the network's configuration; either may be ``None``."""
    if given is None or read is None or given == read:
        return
    text = f"{_written(given)}, but the network reads {_written(read)}. Expected the same, or no {option}."
    raise UsageError(f"task.{option}: {text}")


def _shape(size: Any, channels: Any) -> Shape:
    """Return a shape from what a recipe or a configuration writes: one side, or height and width."""
    if size is None:
        return Shape(channels=channels)
    height, width = size if isinstance(size, list | tuple) else (size, size)
    return Shape(height, width, channels)


def _written(value: Any) -> str:
    return " × ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _tables(
    train: Path | str | None, dev: Path | str | None, sklearn: str | None, shape: Shape, base: Path | None
) -> list[ImageTable]:
    """Read the training images, and those of ``dev`` if it is given, in the shape of the training images."""
    if sklearn is not None:
        return [sklearn_digits(shape)]
    assert train is not None
    train_table = read_images(located(train, base), "train", shape)
    if dev is None:
        return [train_table]
    # The channels of the training images; and their size, if all images are resized.
    dev_shape = replace(shape, channels=train_table.pixels.shape[3])
    dev_table = read_images(located(dev, base), "dev", dev_shape)
    _refuse_other_size(dev_table, train_table.pixels)
    return [train_table, dev_table]


def _refuse_other_size(dev: ImageTable, train: np.ndarray) -> None:
    """Refuse images of ``dev`` of another size than the training images."""
    if dev.pixels.shape[1:] != train.shape[1:]:
        theirs = _written(dev.pixels.shape[1:3])
        raise UsageError(
            f"{dev.places[0]}: {theirs} pixels. Expected {_written(train.shape[1:3])}, as the training images have, "
            "or the option image_size, to which all are resized."
        )


def _source(table: ImageTable, labels: Sequence[str]) -> Source:
    """Return the examples of a table, their classes as numbers.

    Raises:
        UsageError: a class does not occur in the training images.
    """
    index_of = {name: index for index, name in enumerate(labels)}
    for place, label in zip(table.places, table.labels, strict=True):
        if label not in index_of:
            hint = suggestion(label, labels)
            raise UsageError(f"{place}: unknown class {label!r}. Expected one of {', '.join(labels)}.{hint}")
    indices = np.array([index_of[label] for label in table.labels], dtype=np.int64)
    data = ImageSplit(image_digests(table.pixels), indices, table.pixels)
    return Source(table.split, table.name, data, table.places, notices=table.notices)


def _notify_same_looking(labels: Sequence[str], name: str, notify: Notify) -> None:
    for names in same_looking(labels):
        listed = " and ".join(repr(label) for label in names)
        notify(name, f"The classes {listed} look like spellings of one. They are kept apart.")


def _normalisation(
    pixels: np.ndarray, mean: Sequence[float] | None, std: Sequence[float] | None
) -> tuple[Sequence[float], Sequence[float]]:
    """Return mean and standard deviation of each channel: the recipe's, or those of the training images.

    Raises:
        UsageError: the recipe names another number of channels than the images have.
    """
    channels = pixels.shape[3]
    if mean is not None and std is not None:
        for name, values in (("mean", mean), ("std", std)):
            if len(values) != channels:
                text = f"{len(values)} numbers for images of {channels} channels. Expected one for each channel."
                raise UsageError(f"task.{name}: {text}")
        return mean, std
    fractions = as_fractions(pixels).astype(np.float64)
    means = fractions.mean(axis=(0, 1, 2))
    deviations = fractions.std(axis=(0, 1, 2))
    deviations[deviations == 0] = 1.0  # images of one colour have nothing to scale
    return means.tolist(), deviations.tolist()
