"""Viewers answer clicks, and turn into one picture where nobody clicks."""

import base64
import datetime
import re
from functools import partial

import cv2
import ipywidgets
import numpy as np
import pytest

from clothseg_utils.core.classes import class_table
from clothseg_utils.data.coco import annotation_path, images_dir, read_annotations
from clothseg_utils.data.rasterize import rasterize
from clothseg_utils.pictures import widgets
from clothseg_utils.pictures.overlays import overlay
from clothseg_utils.pictures.panels import category_colors, draw_annotations
from clothseg_utils.pictures.widgets import (
    DatasetBrowser,
    PaintingViewer,
    PredictionViewer,
    ViewerPhoto,
)

NAMES = ("background", "head", "neck")
COLORS = np.array([(32, 32, 32), (200, 0, 0), (0, 0, 200)], np.uint8)


@pytest.fixture(scope="module")
def coco(synthetic_root):
    return {s: read_annotations(annotation_path(synthetic_root, s)) for s in ("train", "val")}


@pytest.fixture
def browser(coco, synthetic_root):
    return DatasetBrowser(coco, synthetic_root)


def find(widget, kind, description=None):
    """The one control of a kind (and description) inside a widget."""
    found, waiting = [], [widget]
    while waiting:
        one = waiting.pop()
        waiting += getattr(one, "children", ())
        if type(one) is kind and description in (None, one.description):
            found.append(one)
    (control,) = found
    return control


def shown(widget):
    """HTML of the view: the last child of each viewer."""
    return widget.children[-1].value


def decode_photo_of(markup):
    data = re.search(r"data:image/jpeg;base64,([^\"]+)", markup).group(1)
    return cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR_RGB)


# --- where nobody clicks -------------------------------------------------------------------------


def test_batch_runs_get_a_picture_and_no_widget(browser, monkeypatch):
    monkeypatch.setattr(widgets, "is_attended", lambda: False)
    monkeypatch.setattr(ipywidgets, "HTML", None)  # making one would fail
    bundle = browser._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "image/jpeg"}
    picture = cv2.imdecode(np.frombuffer(base64.b64decode(bundle["image/jpeg"]), np.uint8), 1)
    assert picture.shape == browser.picture().shape


def test_people_get_a_widget_and_the_picture_that_stands_for_it(browser, monkeypatch):
    monkeypatch.setattr(widgets, "is_attended", lambda: True)
    bundle = browser._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/jpeg"} < set(bundle)


# --- the dataset ---------------------------------------------------------------------------------


def test_browser_outlines_every_annotation_and_names_it(browser, coco):
    record = browser.records[0]
    markup = browser.markup()
    items = coco["train"].annotations_of(record.id)
    names = coco["train"].short_names
    titles = re.findall(r"<title>(.+?), [\d,]+ px</title>", markup)
    assert sorted(titles) == sorted(names[a.category_id] for a in items)
    assert f'viewBox="0 0 {record.width} {record.height}"' in markup
    assert record.file_name in markup
    assert f"{len(items)} annotations" in markup


def test_small_annotations_lie_on_top_for_the_mouse(browser):
    areas = [int(a.replace(",", "")) for a in re.findall(r"([\d,]+) px</title>", browser.markup())]
    assert areas == sorted(areas, reverse=True)


def test_annotations_are_outlined_in_the_colour_of_their_category(coco):
    record = coco["train"].images[0]
    image = np.full((record.height, record.width, 3), 255, np.uint8)
    drawn = draw_annotations(image, coco["train"], record).reshape(-1, 3)
    colors = category_colors(coco["train"])
    assert len(np.unique([*colors.values()], axis=0)) == len(coco["train"].categories)
    for annotation in coco["train"].annotations_of(record.id):
        assert (drawn == colors[annotation.category_id]).all(axis=1).any()


def test_browser_finds_photos_by_category_and_number(browser, coco):
    category_id = coco["train"].packed[0].category_id
    browser.select(category_id=category_id)
    assert browser.records
    for record in browser.records:
        held = {a.category_id for a in coco["train"].packed_of(record.id)}
        assert category_id in held
    browser.select(counts=(0, 5))
    expected = [r for r in coco["train"].images if len(coco["train"].packed_of(r.id)) <= 5]
    assert browser.records == expected


def test_dropdown_names_its_choice_and_finds_photos(browser, coco):
    dropdown = find(browser.widget, ipywidgets.Dropdown)
    assert dropdown.label == "any category"
    category_id = coco["train"].packed[0].category_id
    dropdown.value = category_id
    assert browser.category_id == category_id
    assert 0 < len(browser.records) < len(coco["train"].images)
    dropdown.value = dropdown.options[0][1]
    assert browser.category_id is None
    assert browser.records == list(coco["train"].images)


def test_nothing_found_is_said(browser):
    browser.select(counts=(10_000, 10_001))
    assert "No photo fits" in browser.markup()
    assert browser.picture().shape[2] == 3


def test_a_lost_photo_is_named_and_its_annotations_shown(coco, tmp_path):
    browser = DatasetBrowser(coco, tmp_path)
    assert "not found" in browser.markup()
    assert "<title>" in browser.markup()


def test_buttons_step_through_the_photos(browser):
    widget = browser.widget
    first = browser.records[0].file_name
    assert first in shown(widget)
    following = find(widget, ipywidgets.Button, "next ▶")
    previous = find(widget, ipywidgets.Button, "◀ previous")
    assert previous.disabled
    following.click()
    assert browser.records[1].file_name in shown(widget)
    previous.click()
    assert first in shown(widget)
    number = find(widget, ipywidgets.BoundedIntText)
    number.value = len(browser.records)
    assert browser.records[-1].file_name in shown(widget)
    assert following.disabled


def test_a_choice_starts_at_its_first_photo(browser, coco):
    widget = browser.widget
    find(widget, ipywidgets.Button, "next ▶").click()
    find(widget, ipywidgets.ToggleButtons).value = "val"
    assert coco["val"].images[0].file_name in shown(widget)
    assert find(widget, ipywidgets.Label).value == f"of {len(coco['val'].images)}"
    counts = find(widget, ipywidgets.IntRangeSlider)
    counts.value = (counts.max, counts.max)
    assert len(browser.records) >= 1
    assert browser.index == 0


# --- painting order ------------------------------------------------------------------------------


@pytest.fixture
def painting(coco, synthetic_root):
    train = coco["train"]
    classes = class_table("supercategory", train.categories)
    return PaintingViewer(train, train.images[:2], classes, images_dir(synthetic_root, "train"))


def test_painting_ends_in_the_mask(painting, coco):
    record = painting.records[0]
    classes = class_table("supercategory", coco["train"].categories)
    items = coco["train"].annotations_of(record.id)
    mask = rasterize(items, classes.class_of_category, record.height, record.width)
    assert painting.painted == len(items)
    assert (painting.mask(painting.painted) == mask).all()
    assert not painting.mask(0).any()


def test_slider_paints_layer_by_layer(painting):
    widget = painting.widget
    slider = find(widget, ipywidgets.IntSlider)
    slider.value = 1
    assert painting.painted == 1
    assert shown(widget).count('class="last"') == 1
    assert shown(widget).count('class="later"') == slider.max - 1
    assert "Layer 1: " in shown(widget)
    slider.value = 0
    assert "Layer" not in shown(widget)


def test_a_layer_says_what_it_covers(painting):
    texts = []
    for painted in range(1, len(painting._order) + 1):
        painting.painted = painted
        texts.append(re.search(r"<p>(Layer .+?)</p>", painting.markup()).group(1))
    assert any(re.search(r"and covers [\d,]+ px of ", text) for text in texts)


def test_next_photo_is_shown_finished(painting):
    widget = painting.widget
    find(widget, ipywidgets.IntSlider).value = 1
    find(widget, ipywidgets.Button, "next ▶").click()
    assert painting.index == 1
    assert painting.painted == len(painting._order)
    assert painting.records[1].file_name in shown(widget)


# --- predictions ---------------------------------------------------------------------------------


def a_photo(value):
    """Grey photo of 40 x 60 pixels whose truth is head on the left, neck on the right."""
    target = np.ones((40, 60), np.uint8)
    target[:, 30:] = 2
    return np.full((40, 60, 3), value, np.uint8), target


def predict_head(image):
    return np.ones(image.shape[:2], np.uint8)


@pytest.fixture
def viewer():
    photos = [ViewerPhoto(f"photo {n}", partial(a_photo, 80 * n)) for n in range(3)]
    return PredictionViewer(photos, predict_head, NAMES, COLORS, opacity=1.0)


def test_prediction_truth_and_photo(viewer):
    image, target = a_photo(0)
    expected = {
        "prediction": overlay(image, predict_head(image), COLORS, 1.0),
        "truth": overlay(image, target, COLORS, 1.0),
        "photo": image,
    }
    for viewer.view, picture in expected.items():
        difference = np.abs(decode_photo_of(viewer.markup()).astype(int) - picture)
        assert difference.mean() < 6, viewer.view  # JPEG is not exact


def test_errors_have_their_own_legend(viewer):
    viewer.view = "errors"
    assert re.findall(r"<span>([a-z ]+)</span>", viewer.markup()) == ["correct", "wrong class"]


def test_a_hidden_class_is_not_drawn(viewer):
    widget = viewer.widget
    find(widget, ipywidgets.Checkbox, "head").value = False
    assert viewer.hidden == {1}
    assert decode_photo_of(shown(widget)).max() < 20  # the black photo shows through
    assert 'class="later"' in shown(widget)


def test_opacity_slider(viewer):
    widget = viewer.widget
    find(widget, ipywidgets.FloatSlider).value = 0.0
    middle = decode_photo_of(shown(widget))[20, 15]
    assert middle.max() < 20


def test_only_boxes_of_classes_in_sight(viewer):
    viewer.photos[1] = ViewerPhoto("empty", lambda: (a_photo(9)[0], np.zeros((40, 60), np.uint8)))
    viewer._predict = lambda image: np.zeros(image.shape[:2], np.uint8)
    widget = viewer.widget
    assert find(widget, ipywidgets.Checkbox, "neck").layout.display is None
    find(widget, ipywidgets.Button, "next ▶").click()
    assert find(widget, ipywidgets.Checkbox, "neck").layout.display == "none"


def test_steps_predict_ahead(viewer):
    widget = viewer.widget
    assert set(viewer._loaded) == {0, 1, 2}
    find(widget, ipywidgets.Button, "next ▶").click()
    assert "photo 1" in shown(widget)


def test_upload_is_predicted_and_shown(viewer):
    widget = viewer.widget
    png = cv2.imencode(".png", np.full((50, 70, 3), 255, np.uint8))[1].tobytes()
    upload = find(widget, ipywidgets.FileUpload)
    upload.value = [uploaded("mine.png", png), uploaded("bad<.png", b"no photo")]
    assert "mine.png (uploaded)" in shown(widget)
    assert decode_photo_of(shown(widget)).shape == (50, 70, 3)
    assert "photo bad&lt;.png cannot be decoded" in widget.children[-2].value
    assert upload.value == ()
    find(widget, ipywidgets.ToggleButtons).value = "truth"
    assert "has no truth" in shown(widget)


def uploaded(name, content):
    """A file as the browser sends it."""
    return {
        "name": name,
        "type": "image/png",
        "size": len(content),
        "content": memoryview(content),
        "last_modified": datetime.datetime.now(datetime.UTC),
    }


def test_a_photo_that_cannot_be_read_does_not_stop_the_viewer(viewer):
    def fail():
        raise ValueError("photo lost.jpg is empty")

    viewer.photos[1] = ViewerPhoto("lost", fail)
    widget = viewer.widget
    find(widget, ipywidgets.Button, "next ▶").click()
    assert "lost.jpg is empty" in shown(widget)
    find(widget, ipywidgets.Button, "next ▶").click()
    assert "photo 2" in shown(widget)


def test_still_picture_holds_all_four(viewer):
    picture = viewer.picture()
    assert picture.shape[1] > 4 * 60


def test_a_mask_that_is_known_is_not_predicted_again():
    image, _ = a_photo(0)
    known = np.full(image.shape[:2], 2, np.uint8)
    photos = [ViewerPhoto("known", partial(a_photo, 0), known)]
    viewer = PredictionViewer(photos, lambda image: pytest.fail("predicted"), NAMES, COLORS)
    assert viewer.present_classes() == [1, 2]  # the truth's head, the mask's neck


def test_a_large_photo_is_sent_smaller():
    image = np.zeros((3000, 1500, 3), np.uint8)
    photo = ViewerPhoto("large", lambda: (image, None))
    viewer = PredictionViewer([photo], predict_head, NAMES, COLORS)
    assert decode_photo_of(viewer.markup()).shape == (1280, 640, 3)
    assert 'viewBox="0 0 1500 3000"' in viewer.markup()
