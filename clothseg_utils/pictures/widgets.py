"""Viewers for the notebooks: browse the dataset, watch a mask being painted, look at predictions.

A viewer is the value of a notebook's cell. Where somebody can click it appears as ipywidgets;
under papermill and nbconvert it is one still picture, and no widget is made at all. A notebook
saved from JupyterLab keeps that picture too, for places that cannot run widgets, such as GitHub.

Photos are drawn as SVG, so that names appear when the mouse rests on an area, without asking the
kernel, and outlines stay sharp on any screen.
"""

import base64
import functools
import html
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import cv2
import ipywidgets as widgets
import numpy as np

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.core.progress import is_attended
from clothseg_utils.core.text import count_text, printable
from clothseg_utils.data.coco import Annotation, CocoFile, ImageRecord, Split, images_dir
from clothseg_utils.data.photos import decode_photo, read_photo
from clothseg_utils.data.rasterize import annotation_to_instance_mask, build_layers, rasterize
from clothseg_utils.pictures.overlays import (
    ERROR_COLORS,
    ERROR_NAMES,
    colorize,
    error_codes,
    legend_entries,
    overlay,
)
from clothseg_utils.pictures.panels import (
    category_colors,
    draw_annotations,
    overlay_with_legend,
    prediction_panel,
)

View = Literal["prediction", "truth", "errors", "photo"]

_ANY_CATEGORY = ""  # a dropdown whose value is None shows nothing
_SENT_SIDE_PX = 1280  # longest side sent to the browser: sharp at twice the size shown
_STILL_HEIGHT_PX = 480  # of the photos in a still picture of predictions
_JPEG_QUALITY = 88
_SHOWN_WH = (760, 560)  # what a photo fills on the page, CSS pixels
_COLUMN_ROWS = 26  # lines of a legend beside a photo of that height
_STYLE = """<style>
.clothseg-view { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.clothseg-view svg { max-width: 100%; height: auto; border: 1px solid #8884; }
.clothseg-view path { fill-opacity: 0.25; stroke-opacity: 1; }
.clothseg-view path:hover { fill-opacity: 0.65; }
.clothseg-view > div { flex: 1 1 240px; }
.clothseg-view p { margin: 0 0 6px 0; max-width: 44em; overflow-wrap: anywhere; }
.clothseg-view ul { list-style: none; margin: 0; padding: 0; font-size: 13px; line-height: 1.35; }
.clothseg-view ul { max-width: 300px; }
.clothseg-view ul.long { columns: 190px auto; column-gap: 24px; max-width: none; }
.clothseg-view li { display: flex; gap: 8px; break-inside: avoid; margin: 0; }
.clothseg-view li span.number { margin-left: auto; font-variant-numeric: tabular-nums; }
.clothseg-view li.later { opacity: 0.4; }
.clothseg-view li.last { font-weight: bold; }
.clothseg-view i { flex: none; width: 12px; height: 12px; margin-top: 2px; border: 1px solid #888; }
</style>"""


class _Viewer(ABC):
    """Shown as widgets where somebody can click them, as one picture elsewhere."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """The still picture, (H, W, 3) uint8 RGB."""

    @abstractmethod
    def _build(self) -> widgets.Widget: ...

    @functools.cached_property
    def widget(self) -> widgets.Widget:
        """The widgets, made when first asked for."""
        return self._build()

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> dict[str, Any]:
        """What IPython shows."""
        bundle = {"text/plain": repr(self), "image/jpeg": _jpeg_base64(self.picture())}
        if is_attended():
            bundle |= self.widget._repr_mimebundle_()
        return bundle


# --- notebook 01: the dataset --------------------------------------------------------------------


class DatasetBrowser(_Viewer):
    """Browse photos with their annotations outlined, by split, category and number of annotations.

    Args:
        coco: split -> its annotations.
        data_root: dataset in Fashionpedia's layout.

    Attributes:
        split: the split that is shown.
        category_id: only photos with this category; None means any.
        counts: smallest and largest number of annotations of a photo, both included.
        records: the photos that fit, in the file's order.
        index: place in `records` of the photo shown.
    """

    def __init__(self, coco: Mapping[Split, CocoFile], data_root: str | Path) -> None:
        self._coco = dict(coco)
        self._data_root = Path(data_root)
        self.split: Split = next(iter(self._coco))
        self.select()

    def select(
        self,
        split: Split | None = None,
        category_id: int | None = None,
        counts: tuple[int, int] | None = None,
    ) -> None:
        """Choose the photos to browse, and go to the first of them.

        Args:
            split: None keeps the present one.
            category_id: only photos with this category; None means any.
            counts: smallest and largest number of annotations; None means any.
        """
        self.split, self.category_id = split or self.split, category_id
        coco = self._coco[self.split]
        self.counts = counts or (0, self._largest_count())
        low, high = self.counts
        self.records = [
            image
            for image in coco.images
            if low <= len(packed := coco.packed_of(image.id)) <= high
            and (category_id is None or any(a.category_id == category_id for a in packed))
        ]
        self.index = 0

    def _largest_count(self) -> int:
        coco = self._coco[self.split]
        return max((len(coco.packed_of(image.id)) for image in coco.images), default=0)

    def markup(self) -> str:
        """The photo shown, as HTML: outlines that tell their name, and a legend."""
        if not self.records:
            return _STYLE + "<p>No photo fits. Choose another category, or more annotations.</p>"
        record, image, problem, items = self._shown()
        coco = self._coco[self.split]
        colors, names = category_colors(coco), coco.short_names
        shapes = [
            _instance_path(a, record, colors[a.category_id], names)
            for a in sorted(items, key=lambda a: -a.area)  # small ones on top, where the mouse is
        ]
        numbers = sorted(Counter(a.category_id for a in items).items(), key=lambda i: (-i[1], i[0]))
        rows = [(colors[i], names[i], f"× {number}", "") for i, number in numbers]
        title = f"<b>{_escape(record.file_name)}</b>, {record.width} × {record.height} px"
        notes = [title, problem or count_text(len(items), "annotation")]
        return _view(image, "".join(shapes), notes, rows)

    def picture(self) -> np.ndarray:
        """The photo shown, with its annotations outlined and named."""
        if not self.records:
            return _blank(64, 64)
        record, image, *_ = self._shown()
        return draw_annotations(image, self._coco[self.split], record)

    def __repr__(self) -> str:
        return f"DatasetBrowser: {len(self.records):,} photos of {self.split}"

    def _shown(self) -> tuple[ImageRecord, np.ndarray, str, Sequence[Annotation]]:
        """The record, its photo, what is wrong with the photo, and the annotations."""
        record = self.records[self.index]
        path = images_dir(self._data_root, self.split) / record.file_name
        items = self._coco[self.split].annotations_of(record.id)
        return record, *_read_or_blank(path, record), items

    def _build(self) -> widgets.Widget:
        splits = widgets.ToggleButtons(options=list(self._coco), value=self.split)
        splits.style.button_width = "70px"
        categories = widgets.Dropdown(
            options=self._category_options(),
            value=_ANY_CATEGORY if self.category_id is None else self.category_id,
            description="with",
        )
        top = max(1, self._largest_count())
        counts = widgets.IntRangeSlider(
            value=(0, top), min=0, max=top, description="annotations", continuous_update=False
        )
        view = widgets.HTML(self.markup())

        def go_to(index: int) -> None:
            self.index = index
            view.value = self.markup()

        steps = _Steps(len(self.records), go_to)

        def choose(change: Any = None) -> None:
            if change is not None and change["owner"] is splits:
                self.split = splits.value
                top = max(1, self._largest_count())
                _set_quietly(counts, choose, max=top, value=(0, top))
                chosen, options = categories.value, self._category_options()
                chosen = chosen if chosen in {value for _, value in options} else _ANY_CATEGORY
                _set_quietly(categories, choose, options=options, value=chosen)
            category_id = None if categories.value == _ANY_CATEGORY else categories.value
            self.select(splits.value, category_id, counts.value)
            steps.restart(len(self.records))

        for control in (splits, categories, counts):
            control.observe(choose, "value")
        return widgets.VBox([_row(splits, categories, counts), steps.box, view])

    def _category_options(self) -> list[tuple[str, int | str]]:
        by_name = sorted(self._coco[self.split].short_names.items(), key=lambda item: item[1])
        return [("any category", _ANY_CATEGORY), *((name, id_) for id_, name in by_name)]


# --- notebook 02: painting order -----------------------------------------------------------------


class PaintingViewer(_Viewer):
    """Watch masks being painted, one annotation after the other, largest first.

    Args:
        coco: the annotations.
        records: the photos to choose from, at least one; the first is shown first.
        classes: class table.
        image_dir: folder of the photos; a photo that cannot be read leaves white paper.

    Attributes:
        index: place in `records` of the photo shown.
        painted: annotations painted so far; 0 is the bare photo.
    """

    def __init__(
        self,
        coco: CocoFile,
        records: Sequence[ImageRecord],
        classes: ClassTable,
        image_dir: str | Path,
    ) -> None:
        self._coco = coco
        self._classes = classes
        self._class_ids = classes.class_of_category
        self._image_dir = Path(image_dir)
        self.records = tuple(records)
        self._choose(0)

    def _choose(self, index: int) -> None:
        self.index = index
        record = self.records[index]
        self._image, self._problem = _read_or_blank(self._image_dir / record.file_name, record)
        self._size = record.height, record.width
        layers = build_layers(self._coco.annotations_of(record.id), self._class_ids, *self._size)
        self._order = [annotation for annotation, _ in layers]
        self.painted = len(self._order)

    def mask(self, painted: int) -> np.ndarray:
        """The mask after some annotations, (H, W) uint8 class ids."""
        return rasterize(self._order[:painted], self._class_ids, *self._size)

    def markup(self) -> str:
        """The photo with the mask so far, the latest layer outlined, and the list of layers."""
        record = self.records[self.index]
        names, colors = self._coco.short_names, self._classes.colors
        shapes = _mask_layer(self.mask(self.painted), colors)
        notes = [f"<b>{_escape(record.file_name)}</b>" + self._problem]
        if self.painted:
            latest = self._order[self.painted - 1]
            shapes += _instance_path(latest, record, None, names)
            notes.append(_escape(self._explain(latest)))
        rows = []
        for number, annotation in enumerate(self._order, start=1):
            color = colors[self._class_ids[annotation.category_id]]
            state = "later" if number > self.painted else "last" if number == self.painted else ""
            name = f"{number}. {names[annotation.category_id]}"
            rows.append((color, name, f"{annotation.area:,.0f} px", state))
        return _view(self._image, shapes, notes, rows)

    def _explain(self, annotation: Annotation) -> str:
        """What the latest layer did to the mask."""
        inside = annotation_to_instance_mask(annotation, *self._size)
        before = self.mask(self.painted - 1)[inside]
        class_id = self._class_ids[annotation.category_id]
        covered = np.bincount(before, minlength=self._classes.num_classes)
        covered[[0, class_id]] = 0
        name = self._coco.short_names[annotation.category_id]
        text = f"Layer {self.painted}: {name} becomes {self._classes.names[class_id]}"
        if covered.any():
            victim = int(covered.argmax())
            text += f" and covers {covered[victim]:,} px of {self._classes.names[victim]}"
        return text + "."

    def picture(self) -> np.ndarray:
        """The photo with the mask so far and a legend of its classes."""
        return overlay_with_legend(
            self._image, self.mask(self.painted), self._classes.names, self._classes.colors
        )

    def __repr__(self) -> str:
        return f"PaintingViewer: {self.painted} of {len(self._order)} annotations painted"

    def _build(self) -> widgets.Widget:
        view = widgets.HTML(self.markup())
        layer = widgets.IntSlider(self.painted, 0, max(1, len(self._order)), description="painted")
        play = widgets.Play(self.painted, min=0, max=layer.max, interval=700)
        widgets.jslink((play, "value"), (layer, "value"))

        def paint(change: Any = None) -> None:
            self.painted = min(layer.value, len(self._order))
            view.value = self.markup()

        def go_to(index: int) -> None:
            self._choose(index)
            play.max = layer.max = max(1, len(self._order))
            play.value = layer.value = self.painted
            view.value = self.markup()

        layer.observe(paint, "value")
        steps = _Steps(len(self.records), go_to)
        return widgets.VBox([steps.box, _row(play, layer), view])


# --- notebook 05: predictions --------------------------------------------------------------------


class ViewerPhoto(NamedTuple):
    """A photo for `PredictionViewer`: its title, and what reads it.

    `read` returns the photo, (H, W, 3) uint8 RGB, and its truth, (H, W) uint8 or None. A
    `pred_mask`, (H, W) uint8, that is known already is not predicted again.
    """

    title: str
    read: Callable[[], tuple[np.ndarray, np.ndarray | None]]
    pred_mask: np.ndarray | None = None


class _Loaded(NamedTuple):
    image: np.ndarray
    target: np.ndarray | None
    pred_mask: np.ndarray


class PredictionViewer(_Viewer):
    """Look at predictions, best to worst, and at those of uploaded photos.

    The photos next to the one shown are predicted ahead in a thread, so that a step does not wait
    for the network.

    Args:
        photos: in the order to be shown, at least one.
        predict: (H, W, 3) uint8 RGB -> (H, W) uint8 class ids.
        class_names, colors: index = class id; (C, 3) uint8 RGB.
        opacity: of the class colours at first, 0..1.

    Attributes:
        photos: those given, and the uploaded ones after them.
        index: place in `photos` of the one shown.
        view: what lies on the photo.
        opacity: of what lies on it, 0..1.
        hidden: class ids that are not drawn.
    """

    def __init__(
        self,
        photos: Sequence[ViewerPhoto],
        predict: Callable[[np.ndarray], np.ndarray],
        class_names: Sequence[str],
        colors: np.ndarray,
        *,
        opacity: float = 0.55,
    ) -> None:
        self.photos = list(photos)
        self.index = 0
        self.view: View = "prediction"
        self.opacity = opacity
        self.hidden: set[int] = set()
        self._predict = predict
        self._class_names = tuple(class_names)
        self._colors = colors
        self._worker = ThreadPoolExecutor(max_workers=1)
        self._loaded: dict[int, Future[_Loaded]] = {}

    def upload(self, name: str, data: bytes) -> None:
        """Add a photo from a file's bytes, and go to it.

        Raises:
            ValueError: the data are no photo.
        """
        image = decode_photo(data, name)
        self.photos.append(ViewerPhoto(f"{name} (uploaded)", lambda: (image, None)))
        self.index = len(self.photos) - 1

    def markup(self) -> str:
        """The photo shown with what lies on it, and a legend with shares of the pixels."""
        notes = [f"<b>{_escape(self.photos[self.index].title)}</b>"]
        try:
            loaded = self._load(self.index).result()
        except (OSError, ValueError) as error:
            return _STYLE + "".join(f"<p>{line}</p>" for line in (*notes, _escape(str(error))))
        truth = loaded.target
        if truth is None and self.view in ("truth", "errors"):
            notes.append("This photo has no truth: the prediction is shown.")
        if truth is not None and self.view == "errors":
            codes = error_codes(truth, loaded.pred_mask)
            drawn = overlay(loaded.image, codes, ERROR_COLORS, self.opacity, outline=False)
            rows = [
                (ERROR_COLORS[code], ERROR_NAMES[code], f"{100 * share:.1f} %", "")
                for code, share in sorted(_class_shares(codes, ERROR_NAMES).items())
                if code
            ]
        else:
            drawn = loaded.image
            if self.view != "photo":
                mask = truth if truth is not None and self.view == "truth" else loaded.pred_mask
                drawn = overlay(drawn, self._shown(mask), self._colors, self.opacity)
            rows = self._class_rows(loaded)
            notes.append("Shares of the pixels" + ("" if truth is None else ": truth → prediction"))
        return _view(drawn, "", notes, rows)

    def picture(self) -> np.ndarray:
        """Photo, truth and prediction of the photo shown, side by side."""
        loaded = self._load(self.index).result()
        return prediction_panel(
            loaded.image,
            loaded.pred_mask,
            self._class_names,
            self._colors,
            target=loaded.target,
            show_errors=True,
            height=_STILL_HEIGHT_PX,
        )

    def __repr__(self) -> str:
        return f"PredictionViewer: {len(self.photos)} photos"

    def present_classes(self) -> list[int]:
        """Class ids in truth or prediction of the photo shown, background left out."""
        try:
            loaded = self._load(self.index).result()
        except (OSError, ValueError):
            return []
        masks = (loaded.target, loaded.pred_mask)
        found = {i for mask in masks for i in _class_shares(mask, self._class_names)}
        return sorted(found & set(range(1, len(self._class_names))))

    def _load(self, index: int) -> Future[_Loaded]:
        if index not in self._loaded:
            self._loaded[index] = self._worker.submit(self._read_and_predict, self.photos[index])
        return self._loaded[index]

    def _read_and_predict(self, photo: ViewerPhoto) -> _Loaded:
        image, target = photo.read()
        known = photo.pred_mask
        return _Loaded(image, target, self._predict(image) if known is None else known)

    def _load_neighbours(self) -> None:
        """Start on the photos beside the one shown; forget those far away."""
        near = set(range(max(0, self.index - 2), min(len(self.photos), self.index + 3)))
        for index in set(self._loaded) - near:
            self._loaded.pop(index).cancel()
        for index in sorted(near, key=lambda i: abs(i - self.index)):
            self._load(index)

    def _shown(self, mask: np.ndarray) -> np.ndarray:
        """Take the hidden classes out of a mask."""
        table = np.arange(256, dtype=np.uint8)
        table[sorted(self.hidden)] = 0
        return cv2.LUT(mask, table)

    def _class_rows(self, loaded: _Loaded) -> list[tuple[np.ndarray, str, str, str]]:
        masks = (loaded.target, loaded.pred_mask)
        shares = [_class_shares(mask, self._class_names) for mask in masks]
        rows = []
        for class_id in self.present_classes():
            truth, pred = (f"{100 * found.get(class_id, 0):.1f} %" for found in shares)
            text = pred if loaded.target is None else f"{truth} → {pred}"
            state = "later" if class_id in self.hidden else ""
            rows.append((self._colors[class_id], self._class_names[class_id], text, state))
        return rows

    def _build(self) -> widgets.Widget:
        view = widgets.HTML(self.markup())
        status = widgets.HTML()
        kinds = widgets.ToggleButtons(options=list(get_args(View)), value=self.view)
        kinds.style.button_width = "90px"
        opacity = widgets.FloatSlider(self.opacity, min=0, max=1, step=0.05, description="opacity")
        upload = widgets.FileUpload(accept="image/*", multiple=True, description="own photos")
        # One per class, made once; those of absent classes are out of sight.
        look = {"indent": False, "layout": {"width": "auto", "margin": "2px 14px 2px 2px"}}
        boxes = {
            class_id: widgets.Checkbox(True, description=name, **look)
            for class_id, name in enumerate(self._class_names)
            if class_id
        }

        def draw(change: Any = None) -> None:
            self.view, self.opacity = kinds.value, opacity.value
            self.hidden = {class_id for class_id, box in boxes.items() if not box.value}
            view.value = self.markup()

        def go_to(index: int) -> None:
            self.index = index
            present = self.present_classes()
            for class_id, box in boxes.items():
                box.layout.display = None if class_id in present else "none"
            draw()
            self._load_neighbours()

        def receive(change: Any) -> None:
            problems = []
            for file in change["new"]:
                try:
                    self.upload(file["name"], bytes(file["content"]))
                except ValueError as error:
                    problems.append(f"<p>{_escape(str(error))}</p>")
            status.value = "".join(problems)
            if change["new"]:
                _set_quietly(upload, receive, value=())  # so that the same file can come again
                if len(problems) < len(change["new"]):
                    steps.restart(len(self.photos), len(self.photos) - 1)

        steps = _Steps(len(self.photos), go_to)
        for control in (kinds, opacity, *boxes.values()):
            control.observe(draw, "value")
        upload.observe(receive, "value")
        go_to(self.index)
        rows = _row(steps.box, upload), _row(kinds, opacity), _row(*boxes.values())
        return widgets.VBox([*rows, status, view])


def _class_shares(mask: np.ndarray | None, names: Sequence[str]) -> dict[int, float]:
    """Map each class id in a mask, if there is one, to its share of the pixels."""
    entries = () if mask is None else legend_entries(mask, names)
    return {entry.class_id: entry.share for entry in entries}


# --- parts ---------------------------------------------------------------------------------------


class _Steps:
    """Previous, next, and a number to jump to; `go_to` gets the index, from 0, of what to show."""

    def __init__(self, count: int, go_to: Callable[[int], None]) -> None:
        self._go_to = go_to
        self._previous = widgets.Button(description="◀ previous", layout={"width": "100px"})
        self._next = widgets.Button(description="next ▶", layout={"width": "100px"})
        self._number = widgets.BoundedIntText(layout={"width": "80px"})
        self._total = widgets.Label()
        self._previous.on_click(lambda _: self._jump(self._number.value - 1))
        self._next.on_click(lambda _: self._jump(self._number.value + 1))
        self._number.observe(self._follow, "value")
        self.box = widgets.HBox([self._previous, self._number, self._total, self._next])
        self._resize(count, 0)

    def restart(self, count: int, index: int = 0) -> None:
        self._resize(count, index)
        self._go_to(index)

    def _resize(self, count: int, index: int) -> None:
        # The limits may not cross on the way.
        _set_quietly(self._number, self._follow, min=0, max=count)
        _set_quietly(self._number, self._follow, value=min(count, index + 1), min=min(1, count))
        self._total.value = f"of {count:,}"
        self._enable()

    def _jump(self, number: int) -> None:
        if self._number.min <= number <= self._number.max:
            self._number.value = number

    def _follow(self, change: Any) -> None:
        self._enable()
        if self._number.value:
            self._go_to(self._number.value - 1)

    def _enable(self) -> None:
        self._previous.disabled = self._number.value <= 1
        self._next.disabled = self._number.value >= self._number.max


def _row(*controls: widgets.Widget) -> widgets.HBox:
    """Controls beside each other; those that do not fit go below."""
    return widgets.HBox(list(controls), layout={"flex_flow": "row wrap"})


def _set_quietly(control: widgets.Widget, observer: Callable[..., None], **values: Any) -> None:
    """Change a control without calling its observer."""
    control.unobserve(observer, "value")
    for name, value in values.items():
        setattr(control, name, value)
    control.observe(observer, "value")


def _read_or_blank(path: Path, record: ImageRecord) -> tuple[np.ndarray, str]:
    """Read a photo; if that fails, or its size is not the record's, white paper and the reason."""
    try:
        image = read_photo(path)
    except (OSError, ValueError) as error:
        return _blank(record.height, record.width), _escape(f" ({error})")
    if image.shape[:2] != (record.height, record.width):
        reason = f" (the photo is {image.shape[1]} × {image.shape[0]} px)"
        return _blank(record.height, record.width), reason
    return image, ""


def _blank(height: int, width: int) -> np.ndarray:
    return np.full((height, width, 3), 255, np.uint8)


def _view(
    image: np.ndarray,
    shapes: str,
    notes: Sequence[str],
    rows: Sequence[tuple[np.ndarray, str, str, str]],
) -> str:
    """Lay out the photo with shapes on it (SVG, in its pixels), and beside it notes and a legend.

    Notes are lines of HTML, rows the colour, name, number and CSS class of the legend's lines.
    """
    height, width = image.shape[:2]
    scale = min(_SHOWN_WH[0] / width, _SHOWN_WH[1] / height)
    legend = "".join(
        f'<li class="{state}"><i style="background:{_css(color)}"></i>'
        f'<span>{_escape(name)}</span><span class="number">{number}</span></li>'
        for color, name, number, state in rows
    )
    columns = "long" if len(rows) > _COLUMN_ROWS else ""
    texts = "".join(f"<p>{note}</p>" for note in notes if note)
    return (
        f'{_STYLE}<div class="clothseg-view"><svg viewBox="0 0 {width} {height}" '
        f'width="{scale * width:.0f}" height="{scale * height:.0f}" role="img">'
        f'<image width="{width}" height="{height}" '
        f'href="data:image/jpeg;base64,{_jpeg_base64(_limit_side(image))}"/>{shapes}</svg>'
        f'<div>{texts}<ul class="{columns}">{legend}</ul></div></div>'
    )


def _instance_path(
    annotation: Annotation, record: ImageRecord, color: np.ndarray | None, names: Mapping[int, str]
) -> str:
    """One annotation as an SVG path that tells its name; without a colour, a bare outline."""
    inside = annotation_to_instance_mask(annotation, record.height, record.width).view(np.uint8)
    x, y, width, height = cv2.boundingRect(inside)
    box = inside[y : y + height, x : x + width]
    contours, _ = cv2.findContours(box, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE, offset=(x, y))
    path = "".join(_contour_to_path(contour) for contour in contours)
    title = f"{names[annotation.category_id]}, {annotation.area:,.0f} px"
    stroke = max(1.0, max(record.height, record.width) / 450)
    look = (
        'fill="none" stroke="white" pointer-events="none" style="mix-blend-mode:difference"'
        if color is None
        else f'fill="{_css(color)}" stroke="{_css(color)}" fill-rule="evenodd"'
    )
    return (
        f'<path d="{path}" {look} stroke-width="{stroke:.1f}">'
        f"<title>{_escape(title)}</title></path>"
    )


def _contour_to_path(contour: np.ndarray) -> str:
    points = cv2.approxPolyDP(contour, 0.5, closed=True)[:, 0]  # (n, 2) x, y
    # Contours run through the centres of pixels, and those lie half a pixel in.
    return "M" + "L".join(f"{x}.5 {y}.5" for x, y in points.tolist()) + "Z"


def _mask_layer(mask: np.ndarray, colors: np.ndarray) -> str:
    """A mask as an SVG image that lets the background through."""
    rgba = np.dstack([colorize(mask, colors), np.where(mask > 0, 255, 0).astype(np.uint8)])
    options = (cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE)
    data = _encode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), options)
    height, width = mask.shape
    return (
        f'<image width="{width}" height="{height}" opacity="0.6" '
        f'style="image-rendering:pixelated" href="data:image/png;base64,{data}"/>'
    )


def _limit_side(image: np.ndarray) -> np.ndarray:
    """Shrink a photo that is larger than anything that is shown."""
    scale = _SENT_SIDE_PX / max(image.shape[:2])
    if scale >= 1:
        return image
    size = [max(1, round(scale * side)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _jpeg_base64(image: np.ndarray) -> str:
    options = (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY)
    return _encode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)


def _encode(suffix: str, image: np.ndarray, options: Sequence[int]) -> str:
    return base64.b64encode(cv2.imencode(suffix, image, options)[1].tobytes()).decode("ascii")


def _css(color: np.ndarray) -> str:
    return "rgb({},{},{})".format(*map(int, color))


def _escape(text: str) -> str:
    """Any text for HTML, where it also must not turn the direction of what follows."""
    return html.escape(printable(text))
