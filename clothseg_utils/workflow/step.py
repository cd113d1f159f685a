"""One notebook as a step of a run: what all five of them do beside their subject."""

import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clothseg_utils.core.config import config_from_parameters, config_to_parameters
from clothseg_utils.core.faults import show_faults_in_notebook
from clothseg_utils.core.files import resolve_path, write_text
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.pictures.style import Figure, save_figure, show_sharp_figures

if TYPE_CHECKING:
    import pandas as pd


class Step:
    """A notebook's step of a run: its settings, its folder, its clock, and what it wrote.

    Figures of the notebook are shown as they are saved, sharp.

    Args:
        name: the notebook's name, such as "03_training".
        parameters: the notebook's parameters; all that it has defined, `globals()`, will do.

    Attributes:
        name: as given.
        config: the settings; a notebook that learns more of them later replaces it.
        run: the run folder.

    Raises:
        ValueError: a parameter that is misspelt or out of range, or a bad run name.
    """

    def __init__(self, name: str, parameters: Mapping[str, Any]) -> None:
        self._started = time.perf_counter()
        show_sharp_figures()
        show_faults_in_notebook()
        self.name = name
        self.config = config_from_parameters(parameters)
        self.run = RunFolder(self.config.run.outputs_root, self.config.run.run_name)
        self._written: list[Path] = []

    @property
    def checkpoint(self) -> Path:
        """The checkpoint to use: the one that the parameters name, else the best of the run."""
        named = self.config.evaluate.checkpoint
        return resolve_path(named) if named else self.run.best_checkpoint

    def figure(self, name: str, figure: Figure, caption: str) -> Figure:
        """Save a figure as `figures/<name>.png` and `.svg`; return it, to be shown.

        Args:
            name: the files' name without suffix; it begins with the notebook's number.
            figure: what a `plot_` function returned.
            caption: one or two sentences, kept in both files and shown below the figure.
        """
        self._written += save_figure(figure, self.run.figures_dir / name, caption=caption)
        return figure

    def table(self, name: str, table: "pd.DataFrame") -> "pd.DataFrame":
        """Write a table with its index as `tables/<name>.csv`; return it, to be shown."""
        path = self.run.tables_dir / f"{name}.csv"
        write_text(path, table.to_csv(lineterminator="\n"))
        self._written.append(path)
        return table

    def record(
        self,
        *,
        inputs: Iterable[str | Path],
        outputs: Iterable[str | Path] = (),
        scores: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the step into the run's manifest: settings, time, hashes of what it used and made.

        Args:
            inputs: files read; missing ones are an error.
            outputs: files written beside the step's figures and tables.
            scores: numbers to keep beside the step.
        """
        self.run.record_step(
            self.name,
            parameters=config_to_parameters(self.config),
            inputs=inputs,
            outputs=[*outputs, *self._written],
            scores=scores,
            seconds=time.perf_counter() - self._started,
        )
