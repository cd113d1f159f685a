"""Copies: made once, rebuilt when stale, whole whoever makes them."""

import multiprocessing
import os

import cv2
import numpy as np
import pytest

from clothseg_utils.data.masks import read_mask, write_mask
from clothseg_utils.data.photos import read_photo
from clothseg_utils.resized import ResizedCopies


class Source:
    """A photo and a mask on disk, and how often they were read."""

    def __init__(self, folder):
        self.photo_path, self.mask_path = folder / "a.jpg", folder / "masks" / "a.png"
        self.n_reads = 0

    def write(self, height=120, width=80, seed=0, mtime=1_700_000_000):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, 13, (6, 4), np.uint8)
        mask = cv2.resize(blocks, (width, height), interpolation=cv2.INTER_NEAREST)
        image = cv2.GaussianBlur(cv2.merge([mask * 19, 255 - mask * 19, mask * 7]), (0, 0), 6)
        cv2.imwrite(str(self.photo_path), image)
        write_mask(self.mask_path, mask)
        for path in (self.photo_path, self.mask_path):
            os.utime(path, (mtime, mtime))

    def read_native(self):
        self.n_reads += 1
        return read_photo(self.photo_path), read_mask(self.mask_path, 13)

    def read(self, copies):
        return copies.read_pair(self.photo_path, self.mask_path, self.read_native)


@pytest.fixture
def source(tmp_path):
    source = Source(tmp_path)
    source.write()
    return source


@pytest.fixture
def copies(tmp_path):
    return ResizedCopies(tmp_path / "resized-60", 60)


def test_a_copy_is_the_reduced_photo_with_its_mask(source, copies):
    image, mask = source.read(copies)
    assert image.shape == (60, 40, 3)
    assert mask.shape == (60, 40)
    native_image, native_mask = source.read_native()
    expected = cv2.resize(native_image, (40, 60), interpolation=cv2.INTER_AREA)
    assert np.abs(image.astype(int) - expected).mean() < 4  # JPEG, in colour at half resolution
    np.testing.assert_array_equal(mask, native_mask[1::2, 1::2])


def test_the_photo_is_read_once_and_every_reading_is_the_same(source, copies):
    first = source.read(copies)
    second = source.read(copies)
    assert source.n_reads == 1
    for made, read in zip(first, second, strict=True):
        np.testing.assert_array_equal(made, read)


@pytest.mark.parametrize(
    "change",
    [
        lambda source: source.write(seed=1, mtime=1_700_000_100),
        lambda source: os.utime(source.photo_path, (1_700_000_200, 1_700_000_200)),
        lambda source: os.utime(source.mask_path, (1_700_000_200, 1_700_000_200)),
        lambda source: source.write(height=100),
    ],
    ids=["other content", "photo touched", "mask touched", "other size"],
)
def test_a_stale_copy_is_made_anew(source, copies, change):
    source.read(copies)
    change(source)
    image, mask = source.read(copies)
    assert source.n_reads == 2
    fresh_copies = ResizedCopies(copies.folder.with_name("fresh"), 60)
    expected_image, expected_mask = source.read(fresh_copies)
    np.testing.assert_array_equal(image, expected_image)
    np.testing.assert_array_equal(mask, expected_mask)


def test_a_copy_of_another_size_in_the_same_folder_is_not_mistaken(source, copies):
    source.read(copies)
    image, _ = source.read(ResizedCopies(copies.folder, 30))
    assert image.shape == (30, 20, 3)


@pytest.mark.parametrize("n_bytes", [0, 1, 100, -1])
def test_a_copy_that_is_not_whole_is_made_anew(source, copies, n_bytes):
    expected = source.read(copies)
    (path,) = copies.folder.iterdir()
    path.write_bytes(path.read_bytes()[:n_bytes])
    for got, wanted in zip(source.read(copies), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    assert source.n_reads == 2


def test_a_photo_is_not_enlarged(source, tmp_path):
    image, mask = source.read(ResizedCopies(tmp_path / "large", 500))
    assert image.shape == (120, 80, 3)
    np.testing.assert_array_equal(mask, source.read_native()[1])


def test_a_missing_photo_is_an_error_although_there_is_a_copy(source, copies):
    source.read(copies)
    source.photo_path.unlink()
    with pytest.raises(FileNotFoundError, match=r"a\.jpg"):
        source.read(copies)


def _read_many(source, copies, barrier, queue):
    barrier.wait()
    queue.put([source.read(copies)[0].tobytes() for _ in range(5)])


def test_several_processes_may_make_the_same_copy(source, copies):
    context = multiprocessing.get_context("fork")
    barrier, queue = context.Barrier(3), context.Queue()
    workers = [
        context.Process(target=_read_many, args=(source, copies, barrier, queue)) for _ in range(3)
    ]
    for worker in workers:
        worker.start()
    answers = {image for _ in workers for image in queue.get(timeout=60)}
    for worker in workers:
        worker.join(timeout=60)
    assert len(answers) == 1
    assert [path.name for path in copies.folder.iterdir()] == ["a.copy"]
