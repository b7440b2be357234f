"""Arrays in the cache: made once, mapped, made again if they are damaged, dropped with the cache."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

from nasframe.reads import Recorder
from nasframe.running.cache import Cache
from nasframe.running.prepared import Prepared

KEY = "a" * 64


class Maker:
    """Writes arrays and counts how often it was asked to."""

    def __init__(self):
        self.times = 0

    def __call__(self, writer):
        self.times += 1
        writer.append("ids", np.arange(5, dtype=np.uint16))
        writer.append("ids", np.arange(5, 8, dtype=np.int64))
        writer.append("none", np.empty(0, np.int32))


@pytest.fixture
def store(tmp_path):
    return Prepared(tmp_path / "cache")


def test_arrays_are_made_once_and_mapped(store):
    make = Maker()
    for _ in range(2):
        arrays = store.arrays(KEY, make, "numbers")
        assert arrays["ids"].tolist() == list(range(8))
        assert arrays["ids"].dtype == np.uint16
        assert isinstance(arrays["ids"], np.memmap)
        assert arrays["none"].shape == (0,)
    assert make.times == 1
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 1


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "ids.bin").write_bytes(b"x" * 16),
        lambda folder: (folder / "ids.bin").unlink(),
        lambda folder: (folder / "entry.json").write_text("{"),
        lambda folder: (folder / "entry.json").write_text('{"format": 0}'),
    ],
)
def test_damaged_arrays_are_made_again_with_a_warning(store, damage):
    make = Maker()
    store.arrays(KEY, make, "numbers")
    damage(store.root / KEY)
    with pytest.warns(UserWarning, match="damaged in the cache; it is made again"):
        arrays = store.arrays(KEY, make, "numbers")
    assert arrays["ids"].tolist() == list(range(8))
    assert make.times == 2


def test_what_fails_on_the_way_leaves_nothing(store):
    def make(writer):
        writer.append("ids", np.arange(3))
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        store.arrays(KEY, make, "numbers")
    assert list(store.root.iterdir()) == []


def test_several_who_need_the_same_make_it_once(store, capfd):
    make = Maker()
    results = []
    threads = [threading.Thread(target=lambda: results.append(store.arrays(KEY, make, "numbers"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert make.times == 1
    assert all(arrays["ids"].tolist() == list(range(8)) for arrays in results)


def test_another_process_finds_them(store):
    store.arrays(KEY, Maker(), "numbers")
    code = f"from nasframe.running.prepared import Prepared; print(Prepared({str(store.root.parent)!r}).read({KEY!r}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "[0, 1, 2, 3, 4, 5, 6, 7]" in done.stdout


def test_they_are_no_input_of_a_run(store, tmp_path):
    place = tmp_path / "words.txt"
    place.write_text("good")
    with Recorder() as recorder:
        store.arrays(KEY, Maker(), "numbers")
        place.read_text()
    assert set(recorder.stamps) == {os.path.realpath(place)}


def test_pruning_drops_them_before_any_stage(store):
    cache = Cache(store.root.parent)
    store.arrays(KEY, Maker(), "numbers")
    store.arrays("b" * 64, Maker(), "numbers")
    os.utime(store.root / ("b" * 64), (0, 0))
    (_, size), _ = store.entries().values()
    assert cache.total() == 2 * size
    cache.prune(size)
    assert list(store.entries()) == [KEY]
    cache.prune(0)
    assert cache.total() == 0
