"""Photo and mask move alike, 255 lies outside, and each change does what its setting says."""

import cv2
import numpy as np
import pytest

from clothseg_utils.core.classes import IGNORE_INDEX, class_colors
from clothseg_utils.core.config import AugmentConfig
from clothseg_utils.prediction.geometry import IMAGENET
from clothseg_utils.training.augment import TrainTransform, hue_rotation, warp_image, warp_mask

NO_AUGMENTATION = {
    "crop_scale_min": 1.0,
    "crop_scale_max": 1.0,
    "crop_ratio_min": 1.0,
    "crop_ratio_max": 1.0,
    "flip_probability": 0.0,
    "rotation_degrees": 0.0,
    "translate_fraction": 0.0,
    "shear_degrees": 0.0,
    "jitter_strength": 0.0,
    "jitter_hue": 0.0,
    "grayscale_probability": 0.0,
}
STRONG = AugmentConfig(crop_scale_min=0.3, rotation_degrees=40, shear_degrees=20)


def only(size=64, resize="squash", **changes):
    """A transform that does nothing but `changes`."""
    return TrainTransform(AugmentConfig(**NO_AUGMENTATION | changes), size, resize)


def noise(height=64, width=64):
    rng = np.random.default_rng(0)
    return (
        rng.integers(0, 256, (height, width, 3), np.uint8),
        rng.integers(0, 13, (height, width), np.uint8),
    )


def test_augmented_masks_hold_class_ids_and_255_only():
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 13, (20, 15), np.uint8).repeat(5, axis=0).repeat(5, axis=1)
    image = rng.integers(0, 256, (100, 75, 3), np.uint8)
    transform = TrainTransform(STRONG, 64, "squash")
    seen = set()
    for _ in range(30):
        changed_image, changed_mask = transform(image, mask)
        assert changed_image.shape == (64, 64, 3)
        assert changed_image.dtype == np.uint8
        assert changed_mask.shape == (64, 64)
        assert changed_mask.dtype == np.uint8
        seen |= set(np.unique(changed_mask).tolist())
    assert seen == {*range(13), IGNORE_INDEX}


@pytest.mark.parametrize(
    ("changes", "most_outside"),
    [
        ({"rotation_degrees": 40}, 0.5),
        ({"shear_degrees": 20}, 0.5),
        ({"translate_fraction": 0.1}, 0.19),  # 1 - 0.9 * 0.9
    ],
)
def test_outside_the_photo_is_255_and_never_background(changes, most_outside):
    """A photo that is one garment from edge to edge stays one: fill 0 would show here."""
    image, mask = np.full((64, 64, 3), 255, np.uint8), np.full((64, 64), 5, np.uint8)
    transform = only(**changes)
    shares = []
    for _ in range(20):
        changed = transform(image, mask)[1]
        assert set(np.unique(changed)) <= {5, IGNORE_INDEX}
        shares.append((changed == IGNORE_INDEX).mean())
    assert 0.01 < max(shares) <= most_outside + 0.02


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
@pytest.mark.parametrize("times_larger", [1, 4])
def test_photo_and_mask_move_together(resize, times_larger):
    """In a picture whose colours tell the class, they still do after any augmentation."""
    colors = np.zeros((256, 3), np.uint8)
    colors[:13] = class_colors(13)
    colors[IGNORE_INDEX] = IMAGENET.pad_color
    blocks = np.random.default_rng(0).integers(0, 13, (6, 5), np.uint8)
    mask = blocks.repeat(40 * times_larger, axis=0).repeat(40 * times_larger, axis=1)
    no_color = {"jitter_strength": 0.0, "jitter_hue": 0.0, "grayscale_probability": 0.0}
    transform = TrainTransform(STRONG.model_copy(update=no_color), 96, resize)
    for _ in range(20):
        changed, found = transform(colors[mask], mask)
        # Where classes meet, the photo's colours are mixed; two pixels away they are pure.
        square = np.ones((5, 5), np.uint8)
        is_pure = cv2.erode(found, square) == cv2.dilate(found, square)
        is_pure[[0, 1, -2, -1]] = is_pure[:, [0, 1, -2, -1]] = False  # what lies beyond is unseen
        assert is_pure.mean() > 0.3
        np.testing.assert_allclose(
            changed[is_pure].astype(int), colors[found[is_pure]].astype(int), atol=2
        )


def test_augmentation_that_is_switched_off_changes_nothing():
    image, mask = noise()
    changed_image, changed_mask = only()(image, mask)
    np.testing.assert_array_equal(changed_image, image)
    np.testing.assert_array_equal(changed_mask, mask)


def test_flip_mirrors_both():
    image, mask = noise()
    changed_image, changed_mask = only(flip_probability=1)(image, mask)
    np.testing.assert_array_equal(changed_image, image[:, ::-1])
    np.testing.assert_array_equal(changed_mask, mask[:, ::-1])


def test_flip_happens_as_often_as_asked():
    mask = np.array([[1, 2], [1, 2]], np.uint8)
    transform = only(size=2, flip_probability=0.25)
    flipped = [transform(np.zeros((2, 2, 3), np.uint8), mask)[1][0, 0] == 2 for _ in range(400)]
    assert 0.18 < np.mean(flipped) < 0.32


def test_crop_covers_the_area_and_ratio_asked_for():
    """Each pixel of this mask is its own column or row number: the crop can be read from it."""
    rows, columns = np.mgrid[0:200, 0:200].astype(np.uint8)
    transform = only(
        size=200,
        crop_scale_min=0.25,
        crop_scale_max=0.5,
        crop_ratio_min=0.5,
        crop_ratio_max=2.0,
    )
    image = np.zeros((200, 200, 3), np.uint8)
    areas, ratios, lefts = [], [], []
    for seed in range(60):
        transform.set_random_seed(seed)
        across = transform(image, columns)[1].astype(float)
        transform.set_random_seed(seed)
        down = transform(image, rows)[1].astype(float)
        width, height = np.ptp(across) + 1, np.ptp(down) + 1
        areas.append(width * height / 200**2)
        ratios.append(width / height)
        lefts.append(across.min())
    assert 0.24 < min(areas) < 0.28
    assert 0.46 < max(areas) < 0.51
    assert 0.48 < min(ratios) < 0.7
    assert 1.4 < max(ratios) < 2.05
    assert min(lefts) < 20
    assert max(lefts) > 60


def test_crop_that_does_not_fit_is_the_largest_in_the_centre():
    mask = np.tile(np.arange(100, dtype=np.uint8), (50, 1))  # 100 wide, 50 high
    found = only(size=50)(np.zeros((50, 100, 3), np.uint8), mask)[1]  # ratio 1 of the whole area
    np.testing.assert_array_equal(found[0], np.arange(25, 75))


def test_an_enlarged_photo_keeps_its_colour_to_the_edge():
    image = np.full((10, 10, 3), 255, np.uint8)
    assert (warp_image(image, np.diag([10 / 64, 10 / 64, 1.0]), 64) == 255).all()


@pytest.mark.parametrize("factor", [2, 4, 7])
def test_shrinking_averages_so_that_thin_stripes_do_not_turn_into_moire(factor):
    stripes = np.zeros((32 * factor, 32 * factor, 3), np.uint8)
    stripes[::factor] = 252  # one bright line in `factor`
    shrunk = warp_image(stripes, np.diag([factor, factor, 1.0]), 32)
    np.testing.assert_allclose(shrunk, 252 / factor, atol=1)


def test_masks_are_sampled_at_the_nearest_pixel():
    mask = np.arange(16, dtype=np.uint8).reshape(4, 4)
    doubled = warp_mask(mask, np.diag([0.5, 0.5, 1.0]), 8)
    np.testing.assert_array_equal(doubled, mask.repeat(2, axis=0).repeat(2, axis=1))


@pytest.mark.parametrize(
    "changes", [{"jitter_strength": 0.5}, {"jitter_hue": 0.3}, {"grayscale_probability": 1}]
)
def test_colour_changes_leave_the_mask(changes):
    image, mask = noise()
    changed_image, changed_mask = only(**changes)(image, mask)
    np.testing.assert_array_equal(changed_mask, mask)
    assert not np.array_equal(changed_image, image)
    if "grayscale_probability" in changes:
        assert (np.ptp(changed_image, axis=2) == 0).all()


def test_grayscale_has_the_brightness_of_the_photo():
    image, mask = noise()
    expected = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    changed = only(grayscale_probability=1)(image, mask)[0]
    np.testing.assert_allclose(changed[..., 0].astype(int), expected.astype(int), atol=1)


def test_jitter_changes_brightness_contrast_and_saturation():
    """On mid colours, where nothing is clipped, each draw is a matrix that can be read back."""
    image = np.full((8, 8, 3), 100, np.uint8)
    image[:4] = (130, 100, 90)
    transform = only(size=8, jitter_strength=0.2)
    grey_levels, contrasts, saturations = [], [], []
    for _ in range(200):
        changed = transform(image, np.zeros((8, 8), np.uint8))[0].astype(float)
        top, bottom = changed[0, 0], changed[7, 0]
        assert np.ptp(bottom) <= 1  # grey stays grey
        grey_levels.append(changed.mean())
        contrasts.append(top.mean() - bottom.mean())
        saturations.append(np.ptp(top))
    assert min(grey_levels) < 90 < 115 < max(grey_levels)
    # 40 between the channels, times all three of 0.8 to 1.2
    assert 40 * 0.8**3 - 2 < min(saturations) < 30
    assert 52 < max(saturations) < 40 * 1.2**3 + 2


def test_a_third_of_the_circle_permutes_the_channels():
    np.testing.assert_allclose(hue_rotation(1 / 3), [[0, 0, 1], [1, 0, 0], [0, 1, 0]], atol=1e-12)


def test_hue_turns_as_far_as_opencvs_hue_does():
    """The reference shifts the hue in HSV; pure colours a third apart agree with the rotation."""
    pure = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255]]], np.uint8)
    hsv = cv2.cvtColor(pure, cv2.COLOR_RGB2HSV)
    hsv[..., 0] = (hsv[..., 0].astype(int) + 60) % 180
    expected = cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB)
    np.testing.assert_allclose(pure @ hue_rotation(1 / 3).T, expected, atol=1e-9)


def test_equal_seeds_draw_equal_changes():
    image, mask = noise()
    transform = TrainTransform(STRONG, 64, "squash")

    def draw(seed):
        transform.set_random_seed(seed)
        return [transform(image, mask)[0].tobytes() for _ in range(2)]

    first = draw(1)
    assert first == draw(1)
    assert first != draw(2)
    assert first[0] != first[1]


@pytest.mark.parametrize("resize", ["squash", "letterbox"])
def test_zoomed_out_photos_are_whole_and_lie_anywhere(resize):
    """At four times its area a square photo fills a quarter, wherever, and 255 the rest."""
    image, mask = np.full((64, 64, 3), 255, np.uint8), np.full((64, 64), 5, np.uint8)
    transform = only(resize=resize, crop_scale_min=4.0, crop_scale_max=4.0)
    places = set()
    for _ in range(20):
        changed_image, changed_mask = transform(image, mask)
        shown = changed_mask == 5
        assert set(np.unique(changed_mask)) == {5, IGNORE_INDEX}
        assert shown.mean() == pytest.approx(0.25, abs=0.03)
        assert (changed_image[~shown] == IMAGENET.pad_color).mean() > 0.9  # but for its rim
        places.add(tuple(np.argwhere(shown)[0]))
    assert len(places) > 10


def test_a_crop_of_a_letterboxed_photo_shows_no_more_padding_than_it_must():
    """Half the long side of a photo twice as high as wide: all of the crop is photo."""
    mask = np.full((128, 64), 5, np.uint8)
    image = np.zeros((128, 64, 3), np.uint8)
    transform = only(resize="letterbox", crop_scale_min=0.25, crop_scale_max=0.25)
    for _ in range(20):
        assert (transform(image, mask)[1] == 5).all()
