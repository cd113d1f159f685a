"""Figures of training: curves and batches; `source` and `table` as in `style`."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from clothseg_utils.core.classes import ClassTable
from clothseg_utils.pictures.overlays import overlay
from clothseg_utils.pictures.style import (
    BLUE,
    GREEN,
    ORANGE,
    image_grid,
    legend_above,
    mask_legend,
    new_figure,
    styled,
    whole_numbers,
    write_beside,
)


@styled
def plot_training_curves(history: pd.DataFrame, *, source: str) -> Figure:
    """Plot train Dice loss, train loss, val loss, val mIoU and val F1; the best epoch is marked.

    Args:
        history: one row per check (`logs/history.csv`): columns epochs_done, train/dice_loss,
            train/loss, val/loss, val/mean_iou, val/macro_f1; nan where nothing was logged.
    """
    curves = {
        "train/dice_loss": ("Train Dice loss", BLUE),
        "train/loss": ("Train loss", BLUE),
        "val/loss": ("Validation loss", ORANGE),
        "val/mean_iou": ("Validation mIoU", ORANGE),
        "val/macro_f1": ("Validation macro F1", ORANGE),
    }
    done = history["epochs_done"]
    scores = history["val/mean_iou"]
    best = int(scores.argmax()) if scores.notna().any() else None
    figure = new_figure(5.0, source, width_in=9)
    grid = figure.subplot_mosaic([list("aabbcc"), list("dddeee")])
    for axes, (column, (title, color)) in zip(grid.values(), curves.items(), strict=True):
        values = history[column]
        marker = "o" if len(done) <= 40 else None
        axes.plot(done, values, color=color, lw=1.6, marker=marker, ms=3.5)
        _lay_out(axes, title, done)
        if values.isna().all():
            axes.set_yticks([])
            axes.text(0.5, 0.5, "nothing logged", ha="center", transform=axes.transAxes)
        elif best is not None:
            x, y = done.iloc[best], values.iloc[best]
            axes.axvline(x, color=GREEN, ls="--", lw=1.2)
            axes.plot(x, y, "*", color=GREEN, ms=13, mec="white", zorder=5)
            axes.set_title(f"{y:.3f}", loc="right", color=GREEN)
    title = f"Training, {done.iloc[-1]:g} epochs"
    if best is not None:
        title += f"; green: best val mIoU, after epoch {done.iloc[best]:g}"
    figure.suptitle(title, x=0.01, ha="left")
    return figure


def _lay_out(axes: Axes, title: str, done: pd.Series) -> None:
    axes.set_title(title)
    axes.set_xlabel("epochs done")
    axes.set_xlim(0, 1.04 * done.max())
    axes.xaxis.set_major_locator(whole_numbers())
    axes.grid()


@styled
def plot_live_curves(history: pd.DataFrame, *, source: str) -> Figure:
    """Plot losses and val scores so far, small and quick to draw: for the cell that trains.

    Args:
        history: one row per check, as for `plot_training_curves`.
    """
    charts = {
        "Loss": {"train/loss": ("train", BLUE), "val/loss": ("val", ORANGE)},
        "Val score": {"val/mean_iou": ("mean IoU", ORANGE), "val/macro_f1": ("macro F1", GREEN)},
    }
    done = history["epochs_done"]
    figure = new_figure(2.7, source)
    for axes, (title, curves) in zip(figure.subplots(1, 2), charts.items(), strict=True):
        for column, (name, color) in curves.items():
            latest = history[column].iloc[-1]
            axes.plot(done, history[column], color=color, marker="o", ms=3, label=name)
            place = done.iloc[-1], latest
            write_beside(axes, f"{latest:.3f}", place, color=color, fontsize=8.5)
        _lay_out(axes, title, done)
        legend_above(axes)
    return figure


@styled
def plot_batch(images: np.ndarray, masks: np.ndarray, table: ClassTable, *, source: str) -> Figure:
    """Show a batch as the network gets it: each photo beside the same photo with its mask.

    Args:
        images: (N, H, W, 3) uint8 RGB, 0..255, after augmentation.
        masks: (N, H, W) uint8 class ids, or 255.
    """
    pairs = [
        np.concatenate([image, overlay(image, mask, table.colors)], axis=1)
        for image, mask in zip(images, masks, strict=True)
    ]
    figure = image_grid(pairs, [""] * len(pairs), 2, source, mask_legend(masks, table))
    figure.suptitle(
        f"After augmentation: {len(pairs)} photos, {images.shape[2]} × {images.shape[1]} px",
        x=0.01,
        ha="left",
    )
    return figure
