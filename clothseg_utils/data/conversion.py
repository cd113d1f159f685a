"""What `convert` took, healed and left out: `convert.json` in the dataset's folder."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from clothseg_utils.core.text import count_text, first_names
from clothseg_utils.data.coco import Problem, Split

RECORD_NAME = "convert.json"

_LEFT_OUT = "_left_out"
_NOUNS = {
    "annotation": "annotations",
    "category": "categories",
    "image": "photos",
    "mask": "masks",
    "part": "parts",
}
_SHOWN = 3  # names in a line; all are in the record

NoteKind = Literal["left_out", "healed", "said"]


class Note(Struct, frozen=True):
    """Something that is not in the dataset as it stood in the user's files.

    Attributes:
        kind: "left_out", "healed" (read in another way than it stood), or "said" (good to know).
        text: what happened.
        count: how many records, photos or groups it happened to.
        names: which ones, with what is wrong; maybe only the first of those that are healed.
    """

    kind: NoteKind
    text: str
    count: int
    names: list[str] = []

    def __str__(self) -> str:
        shown = "; ".join(self.names[:_SHOWN])
        more = f" and {len(self.names) - _SHOWN:,} more" if len(self.names) > _SHOWN else ""
        return f"{self.text}: {self.count:,}" + (f" ({shown}{more})" if shown else "")


class Notes:
    """Collects notes.

    Args:
        strict: the first note of something broken or lost that is left out is an error.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self._notes: list[Note] = []

    def add(self, kind: NoteKind, text: str, names: Iterable[str], *, broken: bool = False) -> None:
        """Note all these; nothing where there are none.

        Raises:
            ValueError: they are broken, and the notes are strict.
        """
        names = list(names)
        if broken:
            self._refuse_broken(text, names)
        self.count(kind, text, len(names), names)

    def count(self, kind: NoteKind, text: str, count: int, names: Iterable[str] = ()) -> None:
        """Note so many; nothing where there are none."""
        if count:
            self._notes.append(Note(kind, text, count, list(names)))

    def say(self, text: str, count: int, names: Iterable[str] = ()) -> None:
        """Note how many there are, even if there are none."""
        self._notes.append(Note("said", text, count, list(names)))

    def add_problems(self, problems: Iterable[Problem]) -> None:
        """Note what the reader of a file found, one note for each reason.

        Raises:
            ValueError: something is left out, and the notes are strict.
        """
        found: dict[tuple[str, str], list[Problem]] = {}
        for problem in problems:
            found.setdefault((problem.kind, problem.reason), []).append(problem)
        for (kind, reason), same in found.items():
            names = [problem.example for problem in same]
            if kind.endswith(_LEFT_OUT):
                text = f"{_NOUNS[kind.removesuffix(_LEFT_OUT)]} left out, {reason}"
            elif kind == "without_mask":
                text = f"annotations left out, {reason}"
            else:
                text = reason
            note_kind: NoteKind = "healed" if text == reason else "left_out"
            if note_kind == "left_out":
                self._refuse_broken(text, names)
            self.count(note_kind, text, sum(problem.count for problem in same), names)

    @contextlib.contextmanager
    def told_by_errors(self) -> Iterator[None]:
        """Let an error that is raised within say what was noted before it: there is the cause."""
        try:
            yield
        except ValueError as error:
            noted = "; ".join(str(note) for note in self if note.count)
            if not noted:
                raise
            raise ValueError(f"{error} Noted before: {noted}.") from error

    def _refuse_broken(self, text: str, names: Sequence[str]) -> None:
        if names and self.strict:
            raise ValueError(
                f"{text}: {names[0]}; expected nothing broken. Correct it, or leave out --strict."
            )

    def __iter__(self) -> Iterator[Note]:
        """In the order in which they were added."""
        return iter(self._notes)


class Conversion(Struct, frozen=True, kw_only=True):
    """What a dataset of own photos was made of.

    Attributes:
        recipe: hash of everything that the dataset was made from.
        photos: photos of each split that there is.
        annotations: annotations kept, over all splits.
        categories: category names kept -> supercategory, which is the class.
        by_category: whether scheme "category" is meant: nobody said which classes belong together.
        notes: everything that is not used as it stood in the user's files.
    """

    recipe: str
    photos: dict[Split, int]
    annotations: int
    categories: dict[str, str]
    by_category: bool
    notes: list[Note]

    def count(self, text: str) -> int:
        """How many the notes that begin so speak of."""
        return sum(note.count for note in self.notes if note.text.startswith(text))

    def summary(self) -> str:
        """A few lines for a terminal: what there is, and what was left out or healed."""
        photos = [f"{count:,} {split}" for split, count in self.photos.items()]
        lines = [
            f"{', '.join(photos[:-1])} and {photos[-1]} photos, "
            f"{count_text(self.annotations, 'annotation')} in "
            f"{count_text(len(self.categories), 'category', 'categories')}"
        ]
        if self.photos["val"] < 10:
            lines.append("few val photos: expect wide intervals around every score")
        if not self.by_category:
            for class_name in dict.fromkeys(self.categories.values()):
                names = [name for name, own in self.categories.items() if own == class_name]
                lines.append(f"{class_name}: {first_names(names)}")
        return "\n".join([*lines, *map(str, self.notes)])

    def changes(self) -> list[str]:
        """Lines about what was left out, healed or found, for whoever trains on it later."""
        return [str(note) for note in self.notes if note.count]


def write_conversion(data_root: Path, conversion: Conversion) -> None:
    """Write `convert.json` into a dataset's folder."""
    text = msgspec.json.format(msgspec.json.encode(conversion))
    (data_root / RECORD_NAME).write_bytes(text)


def read_conversion(data_root: str | Path) -> Conversion | None:
    """Read `convert.json` of a dataset; None where it has none, or one of another version."""
    try:
        return msgspec.json.decode((Path(data_root) / RECORD_NAME).read_bytes(), type=Conversion)
    except (OSError, msgspec.DecodeError):
        return None


def conversion_changes(data_root: str | Path) -> list[str]:
    """Lines about what `convert` noted; none for datasets that it did not make."""
    made = read_conversion(data_root)
    return [] if made is None else made.changes()
