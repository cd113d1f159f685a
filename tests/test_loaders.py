"""Loaders: samples as they are fitted, every photo as often as asked for, other draws each time."""

import dataclasses
import multiprocessing
import pickle
import threading
import time
from collections import Counter
from types import SimpleNamespace

import albumentations as A
import cv2
import msgspec
import numpy as np
import pytest
import torch
from test_augment import NO_AUGMENTATION

from clothseg_utils.core import workers
from clothseg_utils.core.classes import IGNORE_INDEX
from clothseg_utils.core.config import (
    AugmentConfig,
    Config,
    DataConfig,
    TrainConfig,
    replace_fields,
)
from clothseg_utils.data.coco import ImageRecord
from clothseg_utils.data.masks import MaskEntry
from clothseg_utils.data.splits import load_split
from clothseg_utils.prediction.geometry import Normalization, fit_image, fit_mask
from clothseg_utils.training import loaders
from clothseg_utils.training.loaders import ClothingDataModule, SegmentationDataset, start_worker
from clothseg_utils.training.order import (
    CheckSizes,
    Draw,
    TrainingOrder,
    check_sizes,
    repeat_factors,
)

# As `two_cores` below: on a machine with one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes")


def only(**changes):
    """Augmentation that does nothing but `changes`."""
    return AugmentConfig(**NO_AUGMENTATION | changes)


@pytest.fixture(autouse=True)
def two_cores(monkeypatch):
    """Two workers are the point here, on a machine with one core too."""
    monkeypatch.setattr(workers, "usable_cores", lambda: 2)


@pytest.fixture(scope="module")
def config(synthetic_root, tmp_path_factory):
    return DataConfig(
        data_root=str(synthetic_root),
        derived_root=str(tmp_path_factory.mktemp("derived")),
        mask_workers=1,
        image_size=64,
        train_size=0,
        resize="letterbox",
    )


@pytest.fixture(scope="module")
def train_split(config):
    return load_split(config, "train")


@pytest.fixture(scope="module")
def val_split(config):
    return load_split(config, "val")


def split_of(image, mask):
    """A split of one photo, as far as a Dataset asks."""
    return SimpleNamespace(pairs=lambda: SimpleNamespace(read=lambda index: (image, mask)))


# Dataset


def test_validation_sample_is_the_fitted_photo(val_split, config):
    dataset = SegmentationDataset(val_split, config)
    assert len(dataset) == 8
    image, mask = val_split.read_pair(val_split.images[2])
    sample = dataset[2]
    assert sample["image"].dtype == sample["mask"].dtype == torch.uint8
    expected = fit_image(image, 64, "letterbox").transpose(2, 0, 1)
    np.testing.assert_array_equal(sample["image"].numpy(), expected)
    np.testing.assert_array_equal(sample["mask"].numpy(), fit_mask(mask, 64, "letterbox"))


@pytest.mark.parametrize("augment", [None, only()])
def test_letterbox_pads_with_255_in_training_and_validation(augment):
    image, mask = np.full((64, 32, 3), 255, np.uint8), np.full((64, 32), 5, np.uint8)
    config = DataConfig(image_size=64, train_size=0, resize="letterbox")
    normalization = Normalization((0.2, 0.4, 0.6), (1, 1, 1))
    sample = SegmentationDataset(split_of(image, mask), config, augment, normalization)[0]
    expected = np.full((64, 64), IGNORE_INDEX)
    expected[:, 16:48] = 5
    np.testing.assert_array_equal(sample["mask"].numpy(), expected)
    assert (sample["image"][:, :, 16:48] == 255).all()
    assert sample["image"][:, 0, 0].tolist() == [51, 102, 153]  # the mean: zero once normalised


def plain_photos(*class_ids, size=(64, 32)):
    """A split of photos of one class and colour each, 0 for an empty one."""
    masks = [np.full(size, class_id, np.uint8) for class_id in class_ids]
    images = [np.full((*size, 3), 20 * class_id, np.uint8) for class_id in class_ids]

    class Pairs:
        def __len__(self):
            return len(masks)

        def read(self, index):
            return images[index], masks[index]

    return SimpleNamespace(pairs=Pairs)


def test_groups_show_two_to_four_photos_with_their_masks():
    config = DataConfig(image_size=128, train_size=0, resize="letterbox")
    dataset = SegmentationDataset(plain_photos(1, 2, 3, 4, 5), config, only(group_probability=1.0))
    seen = set()
    for number in range(30):
        sample = dataset[Draw(0, (0, number))]
        shown = sample["mask"] != IGNORE_INDEX
        ids = sample["mask"][shown].unique().tolist()
        assert 1 in ids  # the photo that was asked for
        seen.add(len(ids))
        is_off = (sample["image"][0].int() - 20 * sample["mask"].int()).abs() > 1
        assert is_off[shown].float().mean() < 0.1  # where two photos meet
    assert seen == {2, 3, 4}
    assert torch.equal(*(dataset[Draw(0, (0, 3))]["image"] for _ in range(2)))
    assert len((dataset[0]["mask"]).unique()) > 2  # by number too, as notebook 03 shows them


def test_groups_come_as_often_as_asked_and_only_of_people():
    config = DataConfig(image_size=64, train_size=0, resize="squash")

    def share(probability, *class_ids):
        augment = only(group_probability=probability)
        dataset = SegmentationDataset(plain_photos(*class_ids), config, augment)
        counts = [len(dataset[Draw(0, (0, number))]["mask"].unique()) for number in range(100)]
        return np.mean(np.array(counts) > 1)

    assert share(0.0, 1, 2, 3, 4) == 0
    assert 0.2 < share(0.4, 1, 2, 3, 4) < 0.6
    assert share(1.0, 1, 0) == 0  # nobody on the second photo
    assert share(1.0, 1) == 0  # no second photo


def test_training_samples_may_be_smaller_than_those_of_validation(train_split, val_split, config):
    config = config.model_copy(update={"train_size": 32})
    train = SegmentationDataset(train_split, config, only(crop_scale_min=0.2, crop_scale_max=0.4))
    val = SegmentationDataset(val_split, config)
    assert [tuple(split[0]["image"].shape) for split in (train, val)] == [(3, 32, 32), (3, 64, 64)]


@pytest.mark.parametrize("augment", [None, only()])
def test_squash_pads_nothing(augment):
    image, mask = np.full((64, 32, 3), 255, np.uint8), np.full((64, 32), 5, np.uint8)
    config = DataConfig(image_size=64, train_size=0, resize="squash")
    sample = SegmentationDataset(split_of(image, mask), config, augment)[0]
    assert sample["mask"].shape == (64, 64)
    assert (sample["mask"] == 5).all()
    assert (sample["image"] == 255).all()


def test_dataset_of_fashionpedias_size_is_sent_to_workers_in_under_20_mb(train_split, config):
    names = [f"{number:032x}" for number in range(45_000)]
    images = tuple(
        ImageRecord(id=number, file_name=f"{name}.jpg", width=682, height=1024)
        for number, name in enumerate(names)
    )
    entries = tuple(
        MaskEntry(
            number, f"{name}.jpg", f"{name}.png", 1024, 682, 9000, tuple(range(53_000, 53_013))
        )
        for number, name in enumerate(names)
    )
    large = dataclasses.replace(
        train_split,
        images=images,
        masks=msgspec.structs.replace(train_split.masks, entries=entries),
        coco=threading.Lock(),  # cannot be pickled, and nobody is to try it with a file of 542 MB
    )
    packed = pickle.dumps(SegmentationDataset(large, config, AugmentConfig()))
    assert len(packed) < 20e6
    assert pickle.loads(packed).pairs.file_names[-1] == (f"{names[-1]}.jpg", f"{names[-1]}.png")


# Loaders


@pytest.mark.slow  # each worker imports torch anew
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_workers_that_inherit_nothing_read_the_same_batches(
    config, train_split, val_split, start_method
):
    """As on macOS and Windows, and from Python 3.14 everywhere."""
    module = data_module(config, train_split, val_split, batch_size=3, num_workers=2)
    loader = module.val_dataloader()
    loader.multiprocessing_context = start_method
    alone = data_module(config, train_split, val_split, batch_size=3, num_workers=0)
    for ours, expected in zip(loader, alone.val_dataloader(), strict=True):
        assert torch.equal(ours["image"], expected["image"])
        assert torch.equal(ours["mask"], expected["mask"])


def test_both_datasets_pad_with_the_colour_of_the_network(config, train_split, val_split):
    normalization = Normalization((0.2, 0.4, 0.6), (1, 1, 1))
    module = ClothingDataModule(Config(data=config), train_split, val_split, normalization)
    for dataset in (module.train_dataset, module.val_dataset):
        assert dataset.pad_color == (51, 102, 153)


def data_module(config, train_split, val_split, **train_fields):
    settings = replace_fields(Config(data=config), train_fields)
    return ClothingDataModule(settings, train_split, val_split)


@pytest.fixture(scope="module")
def epochs_by_seed(config, train_split, val_split):
    """Two epochs of eight draws of ONE photo for some settings; cached, as workers take time."""
    equal_photos = dataclasses.replace(train_split, images=train_split.images[:1] * 8)
    cache = {}

    def draw(seed, num_workers, repetition=0):
        """Samples as bytes: (epoch, batch) -> the two photos of that batch."""
        key = (seed, num_workers, repetition)
        if key not in cache:
            module = data_module(
                config,
                equal_photos,
                val_split,
                batch_size=2,
                epoch_images=0,
                num_workers=num_workers,
                seed=seed,
            )
            loader = module.train_dataloader()
            cache[key] = []
            for epoch in range(2):
                loader.sampler.set_epoch(epoch)
                cache[key].append(
                    [
                        image.numpy().tobytes() + mask.numpy().tobytes()
                        for batch in loader
                        for image, mask in zip(batch["image"], batch["mask"], strict=True)
                    ]
                )
        return cache[key]

    return draw


def test_number_of_workers_changes_no_sample(epochs_by_seed):
    """Left alone, all workers start from the same random state and draw the same changes."""
    assert epochs_by_seed(0, 0) == epochs_by_seed(0, 2)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_draw_is_repeated_in_two_epochs(epochs_by_seed, num_workers):
    first, second = epochs_by_seed(0, num_workers)
    assert len({*first, *second}) == 16


def test_equal_seeds_draw_equal_augmentations(epochs_by_seed):
    assert epochs_by_seed(0, 0) == epochs_by_seed(0, 0, repetition=1)


def test_other_seeds_draw_other_augmentations(epochs_by_seed):
    first, other = epochs_by_seed(0, 0), epochs_by_seed(1, 0)
    assert not {*first[0], *first[1]} & {*other[0], *other[1]}


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_number_of_workers_changes_no_sample_of_a_pipeline_file(
    config, train_split, val_split, tmp_path, start_method
):
    """Left alone, every worker of albumentations draws the same, and each epoch again."""
    path = tmp_path / "own.yaml"
    transforms = [A.Affine(rotate=(-40, 40), p=1), A.RandomBrightnessContrast(p=0.5)]
    A.save(A.Compose(transforms), path, data_format="yaml")
    equal_photos = dataclasses.replace(train_split, images=train_split.images[:1] * 8)
    epochs = {}
    for num_workers in (0, 1, 2):
        module = data_module(
            config,
            equal_photos,
            val_split,
            batch_size=2,
            epoch_images=0,
            num_workers=num_workers,
            pipeline_file=str(path),
        )
        loader = module.train_dataloader()
        if num_workers:
            loader.multiprocessing_context = start_method
        epochs[num_workers] = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            epochs[num_workers] += [image.numpy().tobytes() for b in loader for image in b["image"]]
    assert epochs[0] == epochs[1] == epochs[2]
    assert len(set(epochs[0])) == 16


def test_a_worker_starts_although_opencv_has_threads_in_the_parent():
    """A forked process inherits OpenCV's pool without its threads, and must not wait for them."""
    before = cv2.getNumThreads()
    cv2.setNumThreads(2)
    try:
        cv2.warpAffine(np.zeros((2000, 2000), np.uint8), np.eye(2, 3), (2000, 2000))
        time.sleep(0.3)  # after their work the threads spin for a moment, then sleep on a lock
        worker = multiprocessing.get_context("fork").Process(target=start_worker, args=(0,))
        worker.start()
        worker.join(timeout=20)
        if worker.is_alive():
            worker.kill()
        assert worker.exitcode == 0
    finally:
        cv2.setNumThreads(before)


def test_small_data_is_repeated_within_an_epoch(config, train_split, val_split):
    three = dataclasses.replace(train_split, images=train_split.images[:3])
    module = data_module(config, three, val_split, batch_size=4, epoch_images=20, num_workers=0)
    loader = module.train_dataloader()
    counts = Counter(draw.photo for draw in loader.sampler)
    assert sum(counts.values()) == 20
    assert sorted(counts.values()) == [6, 7, 7]  # every photo, as evenly as possible
    assert [len(batch["image"]) for batch in loader] == [4] * 5


def test_epoch_images_may_be_fewer_than_the_photos(config, train_split, val_split):
    module = data_module(config, train_split, val_split, epoch_images=8, num_workers=0)
    drawn = [draw.photo for draw in module.train_dataloader().sampler]
    assert len(set(drawn)) == len(drawn) == 8


@pytest.mark.parametrize(
    ("batch_size", "expected"),
    [
        (5, [5, 5, 5]),  # 16 photos: the last one alone would break batch norm, and comes next
        (8, [8, 8]),
        (16, [16]),
        (20, [16]),  # one small batch is better than none
    ],
)
def test_last_incomplete_batch_is_dropped(config, train_split, val_split, batch_size, expected):
    module = data_module(
        config, train_split, val_split, batch_size=batch_size, epoch_images=0, num_workers=0
    )
    assert [len(batch["mask"]) for batch in module.train_dataloader()] == expected


def draws(order, check):
    order.set_epoch(check)
    return list(order)


def test_every_photo_is_drawn_once_an_epoch(config, train_split, val_split):
    module = data_module(config, train_split, val_split, epoch_images=0, num_workers=0)
    order = module.train_dataloader().sampler
    orders = [[draw.photo for draw in draws(order, epoch)] for epoch in range(2)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(16))
    assert orders[0] != orders[1]


def test_checks_share_out_the_epochs_without_a_gap():
    """Seven photos in checks of four: each pass is whole, whatever a check takes of it."""
    order = TrainingOrder(7, CheckSizes(epoch=4, checks=1, step=2), seed=3)
    photos = [draw.photo for check in range(7) for draw in draws(order, check)]
    passes = [photos[i : i + 7] for i in range(0, 28, 7)]
    assert all(sorted(one) == list(range(7)) for one in passes)
    assert len({tuple(one) for one in passes}) == 4


def test_no_two_draws_share_a_seed_and_a_resumed_order_goes_on():
    sizes = CheckSizes(epoch=10, checks=1, step=5)
    order = TrainingOrder(5, sizes, seed=0)
    both = [*draws(order, 0), *draws(order, 1)]
    assert len({draw.seed for draw in both}) == 20
    assert draws(TrainingOrder(5, sizes, seed=0), 1) == both[10:]


@pytest.mark.parametrize(
    ("taken", "step", "left"),
    [
        (0, 4, 16),
        (4, 4, 12),
        (12, 4, 4),
        (4, 8, 8),  # of another step's size: less than one is left out
        (12, 8, 8),  # but one there is
    ],
)
def test_a_check_that_was_cut_short_goes_on_with_the_rest(taken, step, left):
    sizes = CheckSizes(epoch=16, checks=1, step=step)
    whole = draws(TrainingOrder(7, sizes, seed=0), 1)
    orders = [TrainingOrder(7, sizes, seed=0, rank=rank, world_size=2) for rank in range(2)]
    for order in orders:
        order.taken = taken
    rest = [draws(order, 1) for order in orders]
    assert {*rest[0], *rest[1]} == {*whole[-left:]}
    assert [len(order) for order in orders] == [len(one) for one in rest] == [left // 2] * 2


def test_photos_of_rare_classes_ask_for_more():
    contains = np.zeros((100, 3), bool)
    contains[:, 0] = True
    contains[:25, 1] = True
    contains[0, 2] = True
    factors = repeat_factors(contains, threshold=0.5)
    np.testing.assert_allclose(factors[[0, 1, 24, 25, 99]], [50**0.5, 2**0.5, 2**0.5, 1, 1])


def test_a_pass_takes_photos_as_often_as_their_weights_say():
    weights = np.array([5.0, 1, 1, 1, 1, 1])
    sizes = CheckSizes(epoch=6, checks=1, step=2)
    order = TrainingOrder(6, sizes, seed=0, weights=weights)
    passes = [[draw.photo for draw in draws(order, check)] for check in range(200)]
    counts = np.array([np.bincount(one, minlength=6) for one in passes])
    assert (counts.sum(axis=1) == 6).all()
    assert (np.abs(counts - 6 * weights / 10) < 1).all()  # 3 times, and 0 or 1 time
    np.testing.assert_allclose(counts.mean(axis=0), 6 * weights / 10, atol=0.1)
    assert len({tuple(one) for one in passes}) > 100  # in a random order


def test_rare_classes_are_shown_more_often_in_training(config, train_split, val_split):
    """The threshold of all photos repeats whatever a single photo alone shows."""
    fields = {"epoch_images": 0, "batch_size": 1, "repeat_threshold": 1.0}
    settings = replace_fields(Config(data=config), fields)
    module = ClothingDataModule(settings, train_split, val_split)
    weights = module.train_dataloader().sampler.weights
    pixels = np.array([entry.class_pixels for entry in train_split.masks.entries])
    shares = (pixels > 0).mean(axis=0)
    rarest = [shares[row > 0].min() for row in pixels]
    np.testing.assert_allclose(weights, 1 / np.sqrt(rarest))
    assert weights.min() < weights.max()


def test_processes_take_turns_so_that_their_batches_make_the_one_of_a_single_process():
    sizes = CheckSizes(epoch=8, checks=1, step=4)
    alone = draws(TrainingOrder(9, sizes, seed=1), 2)
    ranks = [draws(TrainingOrder(9, sizes, 1, rank=rank, world_size=2), 2) for rank in range(2)]
    for begin in range(0, 4, 2):  # batches of two, of four together
        joined = {draw for one in ranks for draw in one[begin : begin + 2]}
        assert joined == {*alone[2 * begin : 2 * begin + 4]}


@pytest.mark.parametrize(
    ("n_photos", "fields", "world_size", "expected"),
    [
        (100, {"batch_size": 8}, 1, [96, 104, 96]),
        (100, {"batch_size": 8}, 2, [96, 96, 96]),
        (100, {"batch_size": 8, "accumulate": 3}, 2, [96, 96, 96]),
        (1000, {"batch_size": 8, "checks_per_epoch": 10}, 1, [96, 104, 96]),
        (10, {"batch_size": 32}, 2, [10, 10, 10]),  # one small batch is better than none
        (11, {"batch_size": 32}, 2, [10, 12, 10]),
        (20, {"batch_size": 8, "accumulate": 4}, 1, [16, 24, 16]),
        (240, {"batch_size": 4, "epoch_images": 640}, 1, [640, 640, 640]),
    ],
)
def test_checks_are_whole_steps(n_photos, fields, world_size, expected):
    config = TrainConfig(**{"epoch_images": 0} | fields)
    sizes = check_sizes(n_photos, config, world_size)
    orders = [TrainingOrder(n_photos, sizes, 0, rank, world_size) for rank in range(world_size)]
    assert [sum(len(draws(order, check)) for order in orders) for check in range(3)] == expected
    assert sum(len(order) for order in orders) == expected[-1]


@pytest.mark.parametrize("batch_size", [16, 32, 64])
@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("world_size", [1, 2, 8])
def test_epochs_are_whole_however_large_a_step_is(batch_size, accumulate, world_size):
    """Fashionpedia's photos, ten checks an epoch, after 15 epochs: less than a step is missing."""
    fields = {"batch_size": batch_size, "accumulate": accumulate, "checks_per_epoch": 10}
    sizes = check_sizes(45_623, TrainConfig(**fields, epoch_images=0), world_size)
    steps = np.diff([sizes.begin(check) for check in range(151)])
    n_photos = batch_size * accumulate * world_size
    assert (steps % n_photos == 0).all()
    assert steps.min() >= n_photos
    assert 15 * 45_623 - n_photos < steps.sum() <= 15 * 45_623


def test_more_processes_than_photos_are_refused():
    with pytest.raises(ValueError, match=r"1 photos a check .* too few for 2 processes"):
        check_sizes(3, TrainConfig(epoch_images=0, checks_per_epoch=3), world_size=2)


def test_validation_shows_every_photo_in_order(config, train_split, val_split):
    module = data_module(config, train_split, val_split, batch_size=3, num_workers=0)
    batches = list(module.val_dataloader())
    assert [len(batch["mask"]) for batch in batches] == [3, 3, 2]
    masks = torch.cat([batch["mask"] for batch in batches])
    plain = SegmentationDataset(val_split, config)
    assert torch.equal(masks, torch.stack([plain[index]["mask"] for index in range(8)]))


def test_loaders_have_the_workers_that_can_be_afforded(
    config, train_split, val_split, monkeypatch, capsys
):
    asked = []

    def afford(*arguments):
        asked.append(arguments)
        return 1, "train.num_workers: 1 instead of 2"

    monkeypatch.setattr(loaders, "affordable_workers", afford)
    module = data_module(config, train_split, val_split, batch_size=3, num_workers=2)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    assert module.train_dataloader().num_workers == module.val_dataloader().num_workers == 1
    batch = next(iter(module.val_dataloader()))
    n_bytes = sum(tensor.element_size() * tensor.numel() for tensor in batch.values())
    assert asked == [(2, n_bytes, 2)]
    assert capsys.readouterr().out == "train.num_workers: 1 instead of 2\n"  # once


def test_leaking_splits_are_refused_before_training(config, train_split):
    with pytest.raises(ValueError, match="16 photos are in train and in val"):
        data_module(config, train_split, train_split)
