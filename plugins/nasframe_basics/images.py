"""Reads images from a folder by class, from arrays, or from scikit-learn; every error names the file, or its row.

All images of a task are kept in memory with the same height, width and channels, in eight bits where the files have
eight bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from nasframe.errors import UsageError, listing, suggestion
from nasframe.notices import Notice

if TYPE_CHECKING:
    from PIL import Image

Channels: TypeAlias = Literal[1, 3]
ENDINGS = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".webp"})
EIGHT_BIT_MODES = frozenset({"1", "CMYK", "HSV", "L", "LA", "LAB", "P", "PA", "RGB", "RGBA", "RGBX", "YCbCr"})
"""Pillow's modes of eight bits a channel, or one; the conversion of others would cut values off."""
GREY_MODES = frozenset({"1", "L", "LA"})
ARRAYS = ("images", "labels")
"""The arrays that a ``.npz`` file holds; ``classes``, the names of the labels, may be there too."""


@dataclass(frozen=True)
class ImageTable:
    """The images of one folder or file.

    Args:
        split: the task's split that they belong to.
        name: the folder or file.
        pixels: ``(images, height, width, channels)``, bytes or numbers from 0 to 1.
        labels: the class of each, by name.
        places: the file of each, or file and row.
        notices: what was odd about the files.
    """

    split: str
    name: str
    pixels: np.ndarray
    labels: Sequence[str]
    places: Sequence[str]
    notices: Sequence[Notice] = ()


@dataclass(frozen=True)
class Shape:
    """The shape that images get.

    Args:
        height: in pixels; ``None`` is that of the files, which must then be the same for all.
        width: in pixels; likewise.
        channels: 1 is grey, 3 is colour; ``None`` is colour if some image has colours.
    """

    height: int | None = None
    width: int | None = None
    channels: int | None = None

    @property
    def size(self) -> tuple[int, int] | None:
        """Height and width, if they are known."""
        if self.height is None or self.width is None:
            return None
        return self.height, self.width


def read_images(path: Path, split: str, shape: Shape) -> ImageTable:
    """Read a folder with one folder a class, or a ``.npz`` file.

    Raises:
        UsageError: the path is neither, or a file in it is not as expected; the message names it.
    """
    if path.is_dir():
        return _read_folder(path, split, shape)
    if path.suffix == ".npz":
        return _read_arrays(path, split, shape)
    raise UsageError(f"{path}: {path_fault(path)}")


def path_fault(path: Path) -> str:
    """Return the reason why a path names no images, as far as names show it; empty if it does.

    >>> path_fault(Path("cats.zip"))
    "no such file or folder. Expected a folder with one folder a class, or a file 'NAME.npz'."
    """
    expected = "Expected a folder with one folder a class, or a file 'NAME.npz'."
    if path.is_dir():
        classes = class_folders(path)
        if len(classes) < 2:
            count = "1 folder" if len(classes) == 1 else "no folders"
            return f"{count} in it. Expected a folder for each of two classes or more."
        return ""
    if not path.is_file():
        return f"no such file or folder. {expected}"
    if path.suffix != ".npz":
        return f"not a folder. {expected}"
    return ""


def class_folders(folder: Path) -> list[Path]:
    """Return the folders of the classes by name, without hidden ones."""
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _read_folder(folder: Path, split: str, shape: Shape) -> ImageTable:
    """Read the images below ``folder/CLASS/``, at any depth."""
    fault = path_fault(folder)
    if fault:
        raise UsageError(f"{folder}: {fault}")
    files: list[Path] = []
    labels: list[str] = []
    left_out: list[Path] = []
    for class_folder in class_folders(folder):
        files_of_class = []
        for path in sorted(class_folder.rglob("*")):
            if path.is_dir() or path.name.startswith("."):
                continue
            if path.suffix.lower() in ENDINGS:
                files_of_class.append(path)
            else:
                left_out.append(path)
        if not files_of_class:
            raise UsageError(f"{class_folder}: no images. Expected files that end in {', '.join(sorted(ENDINGS))}.")
        files += files_of_class
        labels += [class_folder.name] * len(files_of_class)
    left_out += [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    images = _Images(shape)
    for path in files:
        images.add(path)
    notices = [*_left_out(left_out), *images.notices()]
    return ImageTable(split, str(folder), images.pixels(), labels, [str(path) for path in files], notices)


def _left_out(files: Sequence[Path]) -> Iterator[Notice]:
    """Yield a notice about files that are no images."""
    if files:
        subject = "1 file is" if len(files) == 1 else f"{len(files):,} files are"
        yield Notice(str(files[0]), f"{subject} no image in a folder of a class, and left out.")


class _Images:
    """Images on their way from files to one array.

    Args:
        shape: what they are brought to.
    """

    def __init__(self, shape: Shape) -> None:
        self._wanted = shape
        self._size: tuple[int, int] | None = None  # width and height, as Pillow has it
        if shape.size is not None:
            height, width = shape.size
            self._size = (width, height)
        self._images: list[Image.Image] = []
        self._has_colours = False
        self._transparent: list[Path] = []
        self._squeezed: list[Path] = []
        self._coloured: list[Path] = []

    def add(self, path: Path) -> None:
        """Read one file.

        Raises:
            UsageError: it is no image, has more than eight bits a channel, or another size than the others.
        """
        image = _opened(path)
        if self._size is None:
            self._size = image.size
        if image.size != self._size:
            self._require_size(path, image)
            width, height = image.size
            if width * self._size[1] != height * self._size[0]:
                self._squeezed.append(path)
        if image.mode not in GREY_MODES:
            self._coloured.append(path)
        if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
            self._transparent.append(path)
        # Kept small at once: a folder of photographs would not fit in memory.
        converted = image.convert("L" if self._wanted.channels == 1 or image.mode in GREY_MODES else "RGB")
        if converted.size != self._size:
            from PIL import Image

            converted = converted.resize(self._size, Image.Resampling.BILINEAR, reducing_gap=3.0)
        self._images.append(converted)

    def _require_size(self, path: Path, image: Image.Image) -> None:
        if self._wanted.height is None:
            width, height = image.size
            first_width, first_height = self._size or (0, 0)
            raise UsageError(
                f"{path}: {width} × {height} pixels. Expected {first_width} × {first_height}, as the first image has, "
                "or the option image_size, to which all are resized."
            )

    def pixels(self) -> np.ndarray:
        """Return all images, ``(images, height, width, channels)`` in bytes."""
        channels = self._wanted.channels
        if channels is None:
            channels = 3 if self._coloured else 1
        mode = "L" if channels == 1 else "RGB"
        arrays = [np.asarray(image.convert(mode)) for image in self._images]
        stacked = np.stack(arrays)
        return stacked[..., None] if channels == 1 else stacked

    def notices(self) -> Iterator[Notice]:
        """Yield what was changed in the images besides their size."""
        if self._squeezed:
            yield Notice(str(self._squeezed[0]), f"{_images_have(self._squeezed)} other proportions and are squeezed.")
        if self._transparent:
            yield Notice(
                str(self._transparent[0]), f"{_images_have(self._transparent)} transparency, which is ignored."
            )
        if self._coloured and self._wanted.channels == 1:
            yield Notice(str(self._coloured[0]), f"{_images_have(self._coloured)} colours, of which grey is left.")


def _images_have(paths: Sequence[Path]) -> str:
    return "1 image has" if len(paths) == 1 else f"{len(paths):,} images have"


def _opened(path: Path) -> Image.Image:
    """Return an image as a viewer would show it, turned as its EXIF data say."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                turned = ImageOps.exif_transpose(image)
    except UnidentifiedImageError:
        raise UsageError(f"{path}: not an image. Expected {', '.join(sorted(ENDINGS))}.") from None
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise UsageError(f"{path}: the image cannot be read ({error}). Expected a whole file.") from None
    if turned.mode not in EIGHT_BIT_MODES:
        raise UsageError(f"{path}: pixels of mode {turned.mode!r}. Expected eight bits a channel.")
    return turned


def _read_arrays(path: Path, split: str, shape: Shape) -> ImageTable:
    """Read the arrays of a ``.npz`` file."""
    with _opened_arrays(path) as arrays:
        missing = [name for name in ARRAYS if name not in arrays]
        if missing:
            hint = suggestion(missing[0], list(arrays))
            raise UsageError(f"{path}: no array {missing[0]!r}. There are: {listing(arrays)}.{hint}")
        content = {}
        for name in (*ARRAYS, "classes"):
            if name in arrays:
                content[name] = _array(path, name, arrays)
    pixels = checked_pixels(str(path), content["images"])
    labels = _labels(str(path), content["labels"], content.get("classes"), len(pixels))
    places = [f"{path}:{row}" for row in range(1, len(pixels) + 1)]
    pixels, notices = brought_to(pixels, shape, str(path))
    return ImageTable(split, str(path), pixels, labels, places, notices)


@contextlib.contextmanager
def _opened_arrays(path: Path) -> Iterator[Any]:
    import zipfile

    try:
        arrays = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: not a .npz file ({error}). Expected what numpy.savez wrote.") from None
    if not hasattr(arrays, "files"):  # a file of one array may have any name
        raise UsageError(f"{path}: one array. Expected what numpy.savez(file, images=…, labels=…) wrote.")
    with arrays:
        yield arrays


def array_names(path: Path) -> list[str]:
    """Return the names of the arrays in a ``.npz`` file; empty if it cannot be read, as reading it will report."""
    try:
        with _opened_arrays(path) as arrays:
            return list(arrays.files)
    except UsageError:
        return []


def _array(path: Path, name: str, arrays: Any) -> np.ndarray:
    import zipfile
    import zlib

    try:
        array: np.ndarray = arrays[name]
    except ValueError:  # an array of Python objects, which only a pickle can hold
        raise UsageError(f"{path}: {name!r} holds Python objects. Expected numbers or text.") from None
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise UsageError(f"{path}: {name!r} cannot be read ({error}). Expected a whole file.") from None
    return array


def checked_pixels(place: str, images: np.ndarray) -> np.ndarray:
    """Return an array of images as ``(images, height, width, channels)``, bytes or numbers from 0 to 1.

    Args:
        place: the file, for messages.
        images: the array as it was read.

    Raises:
        UsageError: it has another shape or type, or values out of range; the message names the row.
    """
    has_channels = images.ndim == 4 and images.shape[-1] in (1, 3)
    if images.ndim != 3 and not has_channels:
        raise UsageError(
            f"{place}: 'images' has the shape {images.shape}. Expected (images, height, width), or "
            "(images, height, width, channels) with 1 or 3 channels."
        )
    if 0 in images.shape:
        raise UsageError(f"{place}: 'images' has the shape {images.shape}. Expected at least one image.")
    pixels = images if has_channels else images[..., None]
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype.kind != "f":
        raise UsageError(f"{place}: 'images' is of type {pixels.dtype}. Expected uint8, or fractions from 0 to 1.")
    flat = pixels.reshape(len(pixels), -1)
    with np.errstate(invalid="ignore"):
        is_sound = ((flat >= 0) & (flat <= 1)).all(1)  # false for NaN, too
    if not is_sound.all():
        row = int(np.flatnonzero(~is_sound)[0])
        values = flat[row]
        wrong = values[~((values >= 0) & (values <= 1))][0]
        raise UsageError(f"{place}:{row + 1}: a pixel of {wrong:g}. Expected fractions from 0 to 1, or bytes (uint8).")
    return pixels.astype(np.float32)


def _labels(place: str, labels: np.ndarray, classes: np.ndarray | None, count: int) -> list[str]:
    """Return the name of each image's class.

    Args:
        place: the file, for messages.
        labels: the array of labels.
        classes: the names of labels that are numbers; ``None`` if there are none.
        count: number of images.
    """
    if labels.shape != (count,):
        raise UsageError(
            f"{place}: 'labels' has the shape {labels.shape}. Expected ({count},), a label for each image."
        )
    if classes is None:
        if labels.dtype.kind not in "iuUb":
            raise UsageError(f"{place}: 'labels' is of type {labels.dtype}. Expected whole numbers or text.")
        return [str(label) for label in labels.tolist()]
    if labels.dtype.kind not in "iu" or classes.dtype.kind != "U" or classes.ndim != 1:
        raise UsageError(f"{place}: 'classes' names numbers. Expected whole numbers in 'labels', texts in 'classes'.")
    names = classes.tolist()
    if len(set(names)) < len(names):
        raise UsageError(f"{place}: 'classes' has a name twice. Expected a name of its own for each class.")
    outside = np.flatnonzero((labels < 0) | (labels >= len(names)))
    if len(outside):
        row = int(outside[0])
        raise UsageError(f"{place}:{row + 1}: label {labels[row]}. Expected 0 to {len(names) - 1}, as 'classes' has.")
    return [names[label] for label in labels.tolist()]


def brought_to(pixels: np.ndarray, shape: Shape, place: str) -> tuple[np.ndarray, list[Notice]]:
    """Resize an array of images, and turn grey into colour or colour into grey.

    Args:
        pixels: ``(images, height, width, channels)``.
        shape: what is wanted.
        place: the file, for notices.

    Returns:
        The array, and what a user should know about the change.
    """
    notices = []
    height, width, channels = pixels.shape[1:]
    if shape.channels == 3 and channels == 1:
        pixels = np.repeat(pixels, 3, axis=3)
    if shape.channels == 1 and channels == 3:
        grey = pixels @ np.array([0.299, 0.587, 0.114], dtype=np.float32)  # as Pillow weights them (ITU-R 601-2)
        pixels = grey.round().astype(np.uint8)[..., None] if pixels.dtype == np.uint8 else grey[..., None]
        notices.append(Notice(place, f"The {len(pixels):,} images have colours, of which grey is left."))
    if shape.size is not None and shape.size != (height, width):
        new_height, new_width = shape.size
        pixels = _resized(pixels, new_height, new_width)
        if width * new_height != height * new_width:
            notices.append(Notice(place, f"The {len(pixels):,} images have other proportions and are squeezed."))
    return pixels, notices


def _resized(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Resize images, channel by channel."""
    from PIL import Image

    resized = np.empty((len(pixels), height, width, pixels.shape[3]), dtype=pixels.dtype)
    for number, image in enumerate(pixels):
        for channel in range(pixels.shape[3]):
            plane = Image.fromarray(np.ascontiguousarray(image[..., channel]))
            resized[number, ..., channel] = np.asarray(plane.resize((width, height), Image.Resampling.BILINEAR))
    return resized


def sklearn_digits(shape: Shape) -> ImageTable:
    """Return the 1,797 handwritten digits of 8 × 8 pixels that scikit-learn brings.

    They are the test set of Alpaydin and Kaynak's *Optical Recognition of Handwritten Digits* (UCI, 1998).
    """
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    pixels = (digits.images / 16).astype(np.float32)[..., None]  # in the files from 0 to 16
    labels = [str(label) for label in digits.target.tolist()]
    places = [f"digits:{row}" for row in range(1, len(labels) + 1)]
    pixels, notices = brought_to(pixels, shape, "digits")
    return ImageTable("train", "digits", pixels, labels, places, notices)


def image_digests(pixels: np.ndarray) -> list[tuple[str]]:
    """Return a key of each image, the same for equal images of the same shape."""
    digests = []
    for image in pixels:
        digest = hashlib.sha256(str((image.shape, image.dtype.str)).encode())
        digest.update(np.ascontiguousarray(image).tobytes())
        digests.append((digest.hexdigest()[:32],))
    return digests
