"""Categories of own annotation files -> those of one dataset, each with its class."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from clothseg_utils.core.classes import (
    MOST_CLASSES,
    SUPERCATEGORY_NAMES,
    is_background,
    plain_name,
)
from clothseg_utils.core.text import first_names, printable, suggestion
from clothseg_utils.data.coco import Category, CocoFile
from clothseg_utils.data.conversion import Notes
from clothseg_utils.data.json_bytes import read_hand_written

_KNOWN = SUPERCATEGORY_NAMES[1:]
_NO_SUPERCATEGORY = ("", "none", "null")  # as tools write it that have none
_LIKENESS = 0.8  # "upperbdy" is a slip; "headwear" is not "head"
_EXAMPLE = '{"T-shirt": "upperbody", "person": null}'

ClassMapping = Mapping[str, str | None]
"""Category name -> class name; None to leave the category out."""


@dataclass(frozen=True)
class OwnClasses:
    """Categories of a dataset that is made from several files.

    Attributes:
        categories: with the class as supercategory.
        id_of: (number of the file, its category_id) -> category id; categories that are left out
            are missing.
        by_category: whether each category is meant to be a class of its own.
    """

    categories: tuple[Category, ...]
    id_of: Mapping[tuple[int, int], int]
    by_category: bool


@dataclass(frozen=True)
class _Entry:
    """A category of one of the files; `key` is its name in the form by which names are equal."""

    file: int
    category: Category
    key: str
    is_used: bool


def unite_categories(
    files: Sequence[CocoFile], mapping: ClassMapping | None, notes: Notes
) -> OwnClasses:
    """Unite the categories of all files by name, and give each its class.

    Names that differ in case, spaces or Unicode form only are one. Background is what has no
    annotation, so a category of that name is left out, as is one that only gathers others and has
    no annotation itself.

    Args:
        files: what is read; the first one's ids and spelling stay.
        mapping: class of each category; None takes the files' own supercategories.
        notes: takes what is left out and united.

    Raises:
        ValueError: a category without a class, one name of several classes, or more classes than a
            mask holds.
    """
    entries = _drop_unlabelled(
        [e for n, file in enumerate(files) for e in _entries(n, file)], notes
    )
    where = first_names([file.path.name for file in files])
    if not entries:
        raise ValueError(
            f"{where}: no category that can be a class; expected garments. Export it again."
        )
    names = list(dict.fromkeys(entry.category.name for entry in entries))
    said = _supercategories(entries) if mapping is None else _mapped(names, mapping, where)
    there = {_key(category.name) for file in files for category in file.categories}
    foreign = [name for name in mapping or () if _key(name) not in there]
    notes.add("said", "names in --classes that are no category, not used", foreign)
    left_out = [name for name in names if said[name] is None]
    notes.add("left_out", "categories left out by --classes", left_out)
    class_of = _spelled_alike({n: own for n, own in said.items() if own is not None}, where)
    by_category = mapping is None and not set(class_of.values()) <= set(_KNOWN)
    kept = [entry for entry in entries if entry.category.name in class_of]
    united = _unite(kept, class_of, by_category, notes)
    n_classes = 1 + len(united.categories if by_category else set(class_of.values()))
    if n_classes > MOST_CLASSES:
        raise ValueError(
            f"{where}: {n_classes - 1} categories would be {n_classes} classes with background; a "
            f"mask holds {MOST_CLASSES}. Say by --classes which of them are one class, or null for "
            "those to leave out."
        )
    return united


def read_classes(path: str | Path) -> ClassMapping:
    """Read a JSON object of category name -> class name, or null to leave the category out.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no JSON object, or a class without a name.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} not found; expected a JSON of category -> class. Check the path."
        )
    expected = f"an object of category -> class, such as {_EXAMPLE}: names stand in double quotes"
    mapping = read_hand_written(path, expected)
    if not isinstance(mapping, dict):
        raise ValueError(
            f"{path} holds a {type(mapping).__name__}; expected an object of category -> class, "
            f"such as {_EXAMPLE}."
        )
    # As the names of the annotation file are read.
    mapping = {
        printable(name): printable(own) if isinstance(own, str) else own
        for name, own in mapping.items()
    }
    first: dict[str, str] = {}
    for name, own in mapping.items():
        if own is not None and not (isinstance(own, str) and plain_name(own)):
            raise ValueError(
                f'{path}: "{name}" has the class {own!r}; expected the name of a class, or null to '
                "leave the category out."
            )
        alike = first.setdefault(_key(name), name)
        if _key(own or "") != _key(mapping[alike] or ""):
            raise ValueError(
                f'{path}: "{alike}" and "{name}" are one name, but have the classes '
                f"{mapping[alike]!r} and {own!r}; expected one class. Remove one of the two."
            )
    return {
        name: None if own is None or is_background(own) else own for name, own in mapping.items()
    }


def _key(name: str) -> str:
    return plain_name(name).casefold()


def _entries(number: int, file: CocoFile) -> list[_Entry]:
    used = {annotation.category_id for annotation in file.packed}
    return [_Entry(number, c, _key(c.name), c.id in used) for c in file.categories]


def _drop_unlabelled(entries: Sequence[_Entry], notes: Notes) -> list[_Entry]:
    """Leave out background, and the roots that some tools add above all categories."""
    used = {entry.key for entry in entries if entry.is_used}
    parents = {(_key(e.category.supercategory), e.key) for e in entries}
    roots = {above for above, key in parents if above != key} - used
    background = [e.category.name for e in entries if is_background(plain_name(e.category.name))]
    notes.add("left_out", "categories left out as background", dict.fromkeys(background))
    gathering = [e.category.name for e in entries if e.key in roots]
    text = "categories left out that have no annotation and only gather others"
    notes.add("left_out", text, dict.fromkeys(gathering))
    left_out = {*background, *gathering}
    return [entry for entry in entries if entry.category.name not in left_out]


def _supercategories(entries: Sequence[_Entry]) -> dict[str, str | None]:
    """Class of each name by the files' supercategories; its own name where there is none."""
    said = {
        entry.key: entry.category.supercategory
        for entry in reversed(entries)
        if _key(entry.category.supercategory) not in _NO_SUPERCATEGORY
    }
    of_key: dict[str, str] = {}
    for entry in entries:
        category = entry.category
        has_none = _key(category.supercategory) in _NO_SUPERCATEGORY
        own = said.get(entry.key, category.name) if has_none else category.supercategory
        known = of_key.setdefault(entry.key, own)
        if _key(known) != _key(own):
            raise ValueError(
                f'category "{category.name}" has the supercategories "{known}" and "{own}"; '
                "expected one. Rename one of the two, or say by --classes what it is."
            )
    return {entry.category.name: of_key[entry.key] for entry in entries}


def _mapped(names: Sequence[str], mapping: ClassMapping, where: str) -> dict[str, str | None]:
    """Class of each name as the user says."""
    by_key = {_key(name): own for name, own in mapping.items()}
    missing = [name for name in names if name not in mapping and _key(name) not in by_key]
    keys = {_key(name) for name in names}
    for name in mapping:
        if _key(name) in keys:
            continue
        if hint := suggestion(name, missing):  # a name that nobody misses may be of another file
            raise ValueError(
                f'--classes: "{name}" is no category of {where}{hint}; expected the names as they '
                "stand there."
            )
    if missing:
        raise ValueError(
            f"--classes gives no class to {first_names(missing)}; expected every category of "
            f"{where}. Add them, with null for those to leave out."
        )
    return {n: mapping[n] if n in mapping else by_key[_key(n)] for n in names}


def _spelled_alike(class_of: Mapping[str, str], where: str) -> dict[str, str]:
    """One spelling for each class: Fashionpedia's, else the first."""
    spelling = {_key(own): plain_name(own) for own in reversed(list(class_of.values()))}
    spelling |= {known: known for known in _KNOWN}
    unknown = [key for key in dict.fromkeys(map(_key, class_of.values())) if key not in _KNOWN]
    if len(unknown) == 1 < len(set(map(_key, class_of.values()))):
        close = difflib.get_close_matches(unknown[0], _KNOWN, n=1, cutoff=_LIKENESS)
        if close:
            name = next(n for n, own in class_of.items() if _key(own) == unknown[0])
            raise ValueError(
                f'{where}: "{name}" has the unknown class "{class_of[name]}" (did you mean '
                f"{close[0]}?); all others are of the 12. Correct it, or name a class of your own "
                "that cannot be mistaken."
            )
    return {name: spelling[_key(own)] for name, own in class_of.items()}


def _unite(
    entries: Sequence[_Entry],
    class_of: Mapping[str, str],
    by_category: bool,
    notes: Notes,
) -> OwnClasses:
    made: dict[tuple[str, str], Category] = {}
    id_of: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, str, str]] = set()
    one_name: dict[str, None] = {}
    free_id = 1 + max((entry.category.id for entry in entries), default=0)
    taken: set[int] = set()
    for entry in entries:
        name, own = plain_name(entry.category.name), class_of[entry.category.name]
        united = made.get((entry.key, own))
        if united is None:
            new_id = entry.category.id
            if new_id in taken:
                new_id, free_id = free_id, free_id + 1
            taken.add(new_id)
            united = made[entry.key, own] = Category(new_id, name, own)
        elif name != united.name or (entry.file, entry.key, own) in seen:
            one_name[f"{entry.category.id} {name} = {united.id} {united.name}"] = None
        seen.add((entry.file, entry.key, own))
        id_of[entry.file, entry.category.id] = united.id
    notes.add("healed", "categories united, of one name but for case and spaces", one_name)
    return OwnClasses(tuple(made.values()), id_of, by_category)
