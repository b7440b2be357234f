"""Images: folders by class, arrays and scikit-learn's digits; what is read, what is refused, and what is told."""

import hashlib
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from PIL import Image

import nasframe as nf
from nasframe.errors import UsageError
from nasframe.notices import Notices
from nasframe.report.data_table import data_rows, data_text
from nasframe.testing import TaskContract
from nasframe_basics import image_classification as module
from nasframe_basics import images
from nasframe_basics.image_classification import ImageSplit, ImageTask, image_classification
from nasframe_basics.images import Shape


class TestDigits(TaskContract):
    use: ClassVar[Any] = {"use": "image_classification", "sklearn": "digits", "train_limit": 64}


def save(path, pixels, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, **options)
    return path


@pytest.fixture
def folder(tmp_path):
    """Twenty images of each of two classes; the pixel at the upper left numbers them."""
    for label, tone in (("cat", 10), ("dog", 200)):
        for number in range(20):
            pixels = np.full((4, 6), tone)
            pixels[0, 0] = number
            save(tmp_path / "images" / label / f"{number:02}.png", pixels)
    return tmp_path / "images"


def made(*args, **options):
    notices = Notices()
    task = image_classification(*args, notify=notices, **options)
    return task, [str(notice) for notice in notices]


def test_a_folder_is_read_class_by_class(folder):
    task, heard = made(folder, select=6, dev_share=10)
    assert task.labels == ["cat", "dog"]
    assert dict(task.sizes) == {"train": 24, "select": 6, "dev": 10}
    assert heard == []
    batch = task.batch("dev", np.arange(10))
    assert batch.inputs["pixel_values"].shape == (10, 1, 4, 6)
    assert batch.labels.bincount().tolist() == [5, 5], "stratified"
    # Undone, the normalisation gives the bytes of the files.
    pixels = batch.inputs["pixel_values"].numpy() * task.std + task.mean
    tones = (pixels[:, 0, -1, -1] * 255).round().astype(int)
    assert tones.tolist() == [10 if label == 0 else 200 for label in batch.labels.tolist()]


@pytest.mark.parametrize("channels", [1, 3])
def test_transformers_prepares_images_as_the_task_does(folder, tmp_path, channels):
    import json

    from transformers import AutoImageProcessor

    task, _ = made(folder, select=6, dev_share=10, channels=channels)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(task.image_processor()))
    processor = AutoImageProcessor.from_pretrained(tmp_path)
    files = sorted(folder.rglob("*.png"))
    mode = "L" if channels == 1 else "RGB"
    prepared = processor([Image.open(file).convert(mode) for file in files], return_tensors="pt")["pixel_values"]
    assert prepared.shape == (40, channels, 4, 6)
    ours = torch.cat([task.batch(split, np.arange(size)).inputs["pixel_values"] for split, size in task.sizes.items()])
    # Each pair of images differs, so that sorting by their numbers compares equal with equal.
    order, ours_order = (values.flatten(1).sum(1).argsort() for values in (prepared, ours))
    torch.testing.assert_close(prepared[order], ours[ours_order], atol=1e-5, rtol=0)


def test_pixels_are_normalised_by_the_training_images_alone(folder):
    task, _ = made(folder, select=6, dev_share=10)
    epoch = torch.cat([batch.inputs["pixel_values"] for batch in task.train_batches(0, 0, 8)])
    assert abs(float(epoch.mean())) < 1e-5
    assert abs(float(epoch.std(correction=0)) - 1) < 1e-5


def test_mean_and_deviation_may_be_given(folder):
    task, _ = made(folder, mean=[0.5], std=[0.25])
    whole = task.batch("train", np.arange(task.sizes["train"])).inputs["pixel_values"]
    assert float(whole.max()) == pytest.approx((200 / 255 - 0.5) / 0.25)
    with pytest.raises(UsageError, match=r"task.mean: 3 numbers for images of 1 channels"):
        made(folder, mean=[0.5] * 3, std=[0.25] * 3)


def test_equal_images_stay_in_one_split(tmp_path):
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        for number in range(12):
            pixels = rng.integers(0, 256, (3, 3))
            for copy in range(3):
                save(tmp_path / label / f"{number}-{copy}.png", pixels)
    task, _ = made(tmp_path, select=9, dev_share=18)

    def images_of(split):
        pixels = task.batch(split, np.arange(task.sizes[split])).inputs["pixel_values"].numpy()
        return {hashlib.sha256(image.tobytes()).hexdigest() for image in pixels}

    assert not images_of("train") & images_of("dev")
    assert not images_of("train") & images_of("select")
    summary = asdict(task.summary)
    assert summary["noun"] == "image"
    assert [split["texts"] for split in summary["splits"]] == [15, 3, 6]
    rows = {row[0]: row[1:] for row in data_rows(summary)}
    assert rows["images"] == ["45", "9", "18"]
    assert rows["image also in train"] == ["–", "0", "0"]
    assert "repeat another row's image" in data_text(summary, 100)


def test_the_fingerprint_follows_pixels_and_labels(folder, tmp_path):
    first, _ = made(folder)
    same, _ = made(folder)
    assert first.fingerprint == same.fingerprint
    save(folder / "cat" / "00.png", np.zeros((4, 6)))
    changed, _ = made(folder)
    assert changed.fingerprint != first.fingerprint


def test_a_limit_keeps_selection_and_dev(folder):
    whole, _ = made(folder, select=6, dev_share=10)
    limited, _ = made(folder, select=6, dev_share=10, train_limit=12)
    assert limited.sizes["train"] == 12
    for split in ("select", "dev"):
        index = np.arange(whole.sizes[split])
        mine = limited.batch(split, index).inputs["pixel_values"].numpy() * limited.std + limited.mean
        theirs = whole.batch(split, index).inputs["pixel_values"].numpy() * whole.std + whole.mean
        assert np.allclose(mine, theirs, atol=1e-5)
    assert limited.summary.unused == 12


# ---- what is refused


def test_places_name_the_file(folder, tmp_path):
    (folder / "cat" / "05.png").write_bytes(b"no image")
    with pytest.raises(UsageError, match=r"cat/05\.png: not an image"):
        made(folder)
    (folder / "cat" / "05.png").write_bytes((folder / "cat" / "06.png").read_bytes()[:60])
    with pytest.raises(UsageError, match=r"cat/05\.png: "):
        made(folder)
    save(folder / "cat" / "05.png", np.zeros((9, 9)))
    with pytest.raises(UsageError, match=r"cat/05\.png: 9 × 9 pixels\. Expected 6 × 4, .*image_size"):
        made(folder)


def test_sixteen_bits_are_refused_not_cut(folder):
    Image.fromarray(np.full((4, 6), 40000, dtype=np.uint16)).save(folder / "dog" / "00.png")
    with pytest.raises(UsageError, match=r"dog/00\.png: pixels of mode 'I;16'. Expected eight bits"):
        made(folder)


def test_an_empty_class_is_refused(folder):
    (folder / "emu").mkdir()
    with pytest.raises(UsageError, match=r"emu: no images. Expected files that end in"):
        made(folder)


def test_a_folder_without_classes_is_refused(tmp_path):
    save(tmp_path / "1.png", np.zeros((2, 2)))
    with pytest.raises(UsageError, match=r"no folders in it. Expected a folder for each of two classes"):
        made(tmp_path)


def test_a_class_that_only_dev_has_is_refused(folder, tmp_path):
    save(tmp_path / "dev" / "cat" / "a.png", np.zeros((4, 6)))
    save(tmp_path / "dev" / "dgo" / "b.png", np.zeros((4, 6)))
    with pytest.raises(UsageError, match=r"dgo/b\.png: unknown class 'dgo'.*Did you mean 'dog'"):
        made(folder, tmp_path / "dev")


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "train: missing"),
        ({"train": "x", "sklearn": "digits"}, "sklearn: the images are named twice"),
        ({"sklearn": "digits", "dev": "x"}, "dev: needs train"),
        ({"sklearn": "digits", "mean": [0.5]}, "std: missing"),
    ],
)
def test_options_that_exclude_each_other_are_refused_at_once(options, text):
    with pytest.raises(UsageError, match=text):
        image_classification(**options)
    ((place, fault),) = list(module._faults(options))
    assert text in f"{place[0]}: {fault}"


def test_check_sees_what_files_lack(tmp_path):
    np.savez(tmp_path / "a.npz", image=np.zeros((2, 2, 2)), labels=np.zeros(2))
    problems = dict(image_classification.on_files({"train": "a.npz", "dev": "nowhere"}, tmp_path))
    assert "no array 'images'" in problems["train"]
    assert "Did you mean 'image'" in problems["train"]
    assert "no such file or folder" in problems["dev"]


# ---- what is told


def test_what_is_dropped_or_changed_is_told(folder):
    (folder / "cat" / "notes.txt").write_text("x")
    (folder / "cat" / ".hidden").write_text("x")
    rgba = np.zeros((4, 6, 4), dtype=np.uint8)
    Image.fromarray(rgba).save(folder / "cat" / "98.png")
    save(folder / "dog" / "99.png", np.zeros((8, 8)))
    _, heard = made(folder, image_size=[4, 6], channels=1)
    text = "\n".join(heard)
    assert "notes.txt: 1 file is no image" in text
    assert "99.png: 1 image has other proportions and are squeezed" in text.replace("is squeezed", "are squeezed")
    assert "98.png: 1 image has transparency, which is ignored" in text
    assert "98.png: 1 image has colours, of which grey is left" in text
    assert ".hidden" not in text


def test_images_with_several_labels_are_told(folder):
    save(folder / "dog" / "90.png", np.asarray(Image.open(folder / "cat" / "03.png")))
    _, heard = made(folder)
    assert any("1 image has different labels in 2 rows" in text for text in heard)


# ---- arrays


def write(path, pixels, labels, **more):
    np.savez(path, images=pixels, labels=labels, **more)
    return path


def test_arrays_are_read_with_the_names_of_classes(tmp_path):
    pixels = np.arange(40 * 4, dtype=np.uint8).reshape(40, 2, 2)
    path = write(tmp_path / "a.npz", pixels, np.arange(40) % 2, classes=np.array(["no", "yes"]))
    task, _ = made(path, select=8, dev_share=8)
    assert task.labels == ["no", "yes"]
    assert task.sizes["train"] == 24


@pytest.mark.parametrize(
    ("pixels", "labels", "text"),
    [
        (np.zeros((3, 2)), [0, 1, 0], r"'images' has the shape \(3, 2\)"),
        (np.zeros((3, 2, 2, 4)), [0, 1, 0], "with 1 or 3 channels"),
        (np.zeros((3, 2, 2)), [0, 1], r"'labels' has the shape \(2,\). Expected \(3,\)"),
        (np.zeros((3, 2, 2), dtype=int), [0, 1, 0], "of type int64. Expected uint8, or fractions"),
        (np.stack([np.zeros((2, 2)), np.full((2, 2), 16.0)]), [0, 1], r"a\.npz:2: a pixel of 16"),
        (np.stack([np.zeros((2, 2)), np.full((2, 2), np.nan)]), [0, 1], r"a\.npz:2: a pixel of nan"),
        (np.zeros((2, 2, 2)), [0.5, 1], "'labels' is of type float64"),
        (np.zeros((2, 2, 2)), [1, 1], "all images are of class '1'"),
    ],
)
def test_arrays_of_other_shapes_or_values_are_refused(tmp_path, pixels, labels, text):
    path = write(tmp_path / "a.npz", pixels, np.array(labels))
    with pytest.raises(UsageError, match=text):
        made(path)


def test_images_without_a_label_are_refused(tmp_path):
    path = write(tmp_path / "a.npz", np.zeros((40, 4, 4)), np.arange(40) % 3 - 1)
    with pytest.raises(UsageError, match=r"a\.npz:1: label -1 in 'labels', beside the class indices 0 to 1, means"):
        made(path)


def test_arrays_of_objects_are_not_unpickled(tmp_path):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 2, 2)), labels=np.array(["a", None], dtype=object))
    with pytest.raises(UsageError, match="'labels' holds Python objects"):
        made(tmp_path / "a.npz")
    (tmp_path / "b.npz").write_bytes(b"nothing")
    with pytest.raises(UsageError, match=r"b\.npz: not a \.npz file"):
        made(tmp_path / "b.npz")


@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5))))
@settings(max_examples=25, deadline=None)
def test_bytes_are_read_as_they_are(pixels):
    checked = images.checked_pixels("a.npz", pixels)
    again, notices = images.brought_to(checked, Shape(*pixels.shape[1:], channels=1), "a.npz")
    assert notices == []
    assert np.array_equal(again[..., 0], pixels)
    coloured, _ = images.brought_to(checked, Shape(channels=3), "a.npz")
    grey, _ = images.brought_to(coloured, Shape(channels=1), "a.npz")
    assert np.array_equal(grey, checked), "the weights of grey add up to one"
    assert len(set(images.image_digests(checked))) == len({image.tobytes() for image in pixels})


def test_grey_is_what_pillow_makes_of_it():
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (1, 5, 7, 3), dtype=np.uint8)
    grey, _ = images.brought_to(pixels, Shape(channels=1), "a")
    expected = np.asarray(Image.fromarray(pixels[0]).convert("L"))
    assert np.abs(grey[0, ..., 0].astype(int) - expected).max() <= 1  # Pillow cuts where we round


# ---- the network


def test_the_network_says_what_it_reads(folder):
    config = SimpleNamespace(image_size=8, num_channels=3)
    task, _ = made(folder, config=config)
    assert task.batch("dev", np.array([0])).inputs["pixel_values"].shape == (1, 3, 8, 8)
    with pytest.raises(UsageError, match=r"task.image_size: 4 × 6, but the network reads 8 × 8"):
        made(folder, config=config, image_size=[4, 6])
    with pytest.raises(UsageError, match=r"task.channels: 1, but the network reads 3"):
        made(folder, config=config, channels=1)


def test_metrics_agree_with_sklearn():
    from sklearn.metrics import f1_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 30)
    pixels = rng.integers(0, 256, (30, 2, 2, 1), dtype=np.uint8)
    split = ImageSplit(images.image_digests(pixels), labels, pixels)
    task = ImageTask({"dev": split}, ["a", "b", "c"], [0.5], [0.5], class_weights=None)
    guesses = rng.integers(0, 3, 30)
    rows = iter(range(30))

    def forward(pixel_values):
        chosen = [next(rows) for _ in pixel_values]
        return SimpleNamespace(logits=torch.eye(3)[guesses[chosen]] * 5)

    result = task.evaluate(forward, "dev")
    assert result.metrics["accuracy"] == pytest.approx((guesses == labels).mean())
    assert result.metrics["macro_f1"] == pytest.approx(f1_score(labels, guesses, average="macro"))
    assert result.predictions["prediction"] == guesses.tolist()


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    table = images.sklearn_digits(Shape())
    assert np.array_equal((table.pixels[..., 0] * 16).round(), load_digits().images)
    task = nf.make("task", {"use": "image_classification", "sklearn": "digits"}, seed=0, base=None)
    assert sum(task.sizes.values()) == 1797
