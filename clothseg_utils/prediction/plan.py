"""Which photos `predict` is going to do, which of them are this shard's, and where results go."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from clothseg_utils.core.files import portable_path
from clothseg_utils.core.text import first_names, printable
from clothseg_utils.data.photos import decode_first_picture, read_photo_file
from clothseg_utils.prediction.inputs import Inputs
from clothseg_utils.prediction.result_names import ENDINGS, file_names, result_stems
from clothseg_utils.prediction.tars import TarMember


@dataclass(frozen=True, slots=True)
class PhotoTask:
    """One photo to predict.

    Attributes:
        folder: that the photo lies in; in a tar, the tar's path and the folder there.
        name: of the photo's file.
        target: folder of its results.
        stem: what their names begin with.
        file_name: what it is called in files on all photos, see `result_names.file_names`.
        member: where it lies in a tar.
    """

    folder: Path
    name: str
    target: Path
    stem: str
    file_name: str
    member: TarMember | None = None

    @property
    def photo(self) -> Path:
        """The photo's path."""
        return self.folder / self.name

    @property
    def result_stem(self) -> Path:
        """The path, without ending, that its results share."""
        return self.target / self.stem

    def result(self, ending: str) -> Path:
        """The result with one of the endings of `result_names.ENDINGS`."""
        return self.target / f"{self.stem}{ending}"

    def results(
        self, *, as_json: bool = False, probabilities: bool = False, masks_only: bool = False
    ) -> list[Path]:
        """Every file that this photo's prediction writes."""
        pictures = ENDINGS[: 1 if masks_only else 3]
        endings = [*pictures, *[".json"] * as_json, *[".npz"] * probabilities]
        return [self.result(ending) for ending in endings]

    def read(self) -> bytes:
        """The photo's file; errors are those of `read_photo` and of `TarMember.read`."""
        if self.member is None:
            return read_photo_file(self.photo)
        return self.member.read(printable(self.photo))

    def decode(self, data: bytes) -> tuple[np.ndarray, bool]:
        """The photo, and whether its file holds further pictures."""
        return decode_first_picture(data, printable(self.photo))


@dataclass(frozen=True)
class PredictionPlan:
    """What `predict` is going to do.

    Attributes:
        tasks: the photos.
        skipped: what is no photo: reason, a suffix or words -> files.
        unread: what may hold photos and cannot be looked at -> one line that says why.
    """

    tasks: list[PhotoTask]
    skipped: dict[str, list[Path]]
    unread: dict[Path, str]

    def folder(self) -> str:
        """Where the photos' `file_name` begin: a folder, for a record; "" without photos."""
        if not self.tasks:
            return ""
        first = self.tasks[0]
        return portable_path(os.path.abspath(first.photo)[: -len(first.file_name)])

    def digest(self) -> str:
        """SHA-256 of all photos' names, in hex: shards of one job have divided the same photos."""
        names = hashlib.sha256()
        for task in self.tasks:
            names.update(os.fsencode(task.file_name) + b"\0")
        return names.hexdigest()

    def part(self, number: int, of: int) -> "PredictionPlan":
        """One of `of` parts, counted from 1: they follow each other and are equally long.

        Neighbours stay together, so that a part opens few folders and tars.
        """
        start, stop = ((n * len(self.tasks)) // of for n in (number - 1, number))
        return replace(self, tasks=self.tasks[start:stop])


def plan_predictions(
    inputs: Iterable[str | Path], out_dir: str | Path, lists: Iterable[str | Path] = ()
) -> PredictionPlan:
    """List the photos and where their results go, before anything is written.

    A folder stands for the photos in it and below; its subfolders are kept below `out_dir`. A file
    is a photo by its suffix, else by its content. What an earlier `predict` wrote is no photo, nor
    is anything in an `out_dir` that lies in the folder. A file that is named itself is always
    predicted. A tar stands for the photos in it, and its results lie in a folder called as it is.
    Results never meet each other or a photo: see `result_names.result_stems`.

    Args:
        inputs: photos, folders, tars, and patterns such as `photos/**/*.jpg`.
        out_dir: folder of the results.
        lists: text files with a path of a photo or tar on each line; see `Inputs.add_list`.

    Raises:
        FileNotFoundError: an input does not exist.
        ValueError: no photo at all.
    """
    out_dir = Path(out_dir)
    found = Inputs(out_dir)
    given, given_lists = [Path(entry) for entry in inputs], [Path(entry) for entry in lists]
    for entry in given:
        found.add(entry)
    for entry in given_lists:
        found.add_list(entry)
    stems = result_stems(found.sources, out_dir)
    names = file_names(found.sources)
    tasks = [
        PhotoTask(source.folder, source.name, target, stem, name, source.member)
        for source, (target, stem), name in zip(found.sources, stems, names, strict=True)
    ]
    skipped = dict(sorted(found.skipped.items(), key=lambda item: -len(item[1])))
    plan = PredictionPlan(tasks, skipped, found.unread)
    if not tasks and not found.unread:
        raise ValueError(
            f"no photo found in {printable(first_names([*given, *given_lists]))}; expected at "
            f"least one. {' '.join(skipped_lines(plan))}"
        )
    return plan


def check_apart(tasks: Iterable[PhotoTask]) -> None:
    """Refuse results beside photos, where masks alone could not be told from photos next time.

    Nor could those that other shards are writing at the moment.

    Raises:
        ValueError: a folder holds photos and would hold results.
    """
    pairs = {(task.folder, task.target) for task in tasks}
    targets = {os.path.realpath(target) for _, target in pairs}
    for folder, _ in pairs:
        if os.path.realpath(folder) in targets:
            raise ValueError(
                f"{printable(folder)} holds photos and would hold results; with --shard or "
                "--masks-only expected folders of their own. Give another --out."
            )


def skipped_lines(plan: PredictionPlan) -> list[str]:
    """A line for each kind of what is no photo."""
    return [
        f"skipped, {reason}: {len(paths):,} ({printable(first_names(paths))})"
        for reason, paths in plan.skipped.items()
    ]


def parse_shard(text: str) -> tuple[int, int]:
    """Read "3/8", the third of eight.

    Raises:
        ValueError: it is something else.

    Example:
        >>> parse_shard("3/8")
        (3, 8)
    """
    number, _, of = text.partition("/")
    if number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of):
        return int(number), int(of)
    raise ValueError(f"--shard is {text!r}; expected one of so many, from 1/8 to 8/8.")
