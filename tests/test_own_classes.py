"""Tests of `data.own_classes`: categories of several files become those of one dataset."""

import json
from pathlib import Path

import pytest

from clothseg_utils.data.coco import CocoFile, read_annotations
from clothseg_utils.data.conversion import Notes
from clothseg_utils.intake.own_classes import OwnClasses, read_classes, unite_categories


class Files:
    """Annotation files of some categories; each has an annotation unless it is `unused`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.notes = Notes()
        self.files: list[CocoFile] = []

    def add(self, *categories: tuple, unused: tuple[int, ...] = ()) -> None:
        """Add a file with categories of (id, name) or (id, name, supercategory)."""
        names = ("id", "name", "supercategory")
        records = [dict(zip(names, category, strict=False)) for category in categories]
        annotations = [
            {
                "id": r["id"],
                "image_id": 1,
                "category_id": r["id"],
                "segmentation": [[0, 0, 4, 0, 4, 4]],
            }
            for r in records
            if r["id"] not in unused
        ]
        path = self.folder / f"{len(self.files)}.json"
        images = [{"id": 1, "file_name": "a.jpg", "width": 9, "height": 9}]
        file = {"images": images, "categories": records, "annotations": annotations}
        path.write_text(json.dumps(file))
        self.files.append(read_annotations(path))

    def unite(self, mapping=None) -> OwnClasses:
        return unite_categories(self.files, mapping, self.notes)

    def said(self) -> str:
        return "\n".join(map(str, self.notes))


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def shown(classes: OwnClasses) -> list[tuple[int, str, str]]:
    return [(c.id, c.name, c.supercategory) for c in classes.categories]


ALONE = {
    "supercategories of the file": ([(5, "shirt", "upperbody")], [(5, "shirt", "upperbody")]),
    "in another spelling": ([(5, "shirt", " UpperBody")], [(5, "shirt", "upperbody")]),
    "none": ([(5, "shirt"), (6, "hat", None)], [(5, "shirt", "shirt"), (6, "hat", "hat")]),
    "none in words": ([(5, "shirt", "none")], [(5, "shirt", "shirt")]),
    "names in another case": ([(5, "Hat"), (6, "hat ")], [(5, "Hat", "Hat")]),
    "one name twice": ([(5, "hat"), (6, "hat")], [(5, "hat", "hat")]),
    "background": ([(0, "_background_"), (6, "hat")], [(6, "hat", "hat")]),
    "root": ([(0, "x"), (6, "hat", "x"), (7, "shoe", "X")], [(6, "hat", "x"), (7, "shoe", "x")]),
}  # fmt: skip


@pytest.mark.parametrize(("categories", "expected"), ALONE.values(), ids=ALONE)
def test_categories_of_one_file(files, categories, expected):
    files.add(*categories, unused=(0,))
    assert shown(files.unite()) == expected


@pytest.mark.parametrize(
    ("name", "note"),
    [
        ("names in another case", "categories united, of one name but for case and spaces: 1"),
        ("one name twice", "categories united, of one name but for case and spaces: 1"),
        ("background", "categories left out as background: 1 (_background_)"),
        ("root", "categories left out that have no annotation and only gather others: 1 (x)"),
    ],
)
def test_what_was_done_to_categories_is_said(files, name, note):
    files.add(*ALONE[name][0], unused=(0,))
    files.unite()
    assert note in files.said()


def test_gathering_category_with_annotations_is_kept(files):
    files.add((1, "jacket"), (2, "zip", "jacket"))
    assert [name for _, name, _ in shown(files.unite())] == ["jacket", "zip"]


def test_categories_without_annotations_are_kept(files):
    """They may occur in the other split."""
    files.add((1, "hat"), (2, "shoe"), unused=(2,))
    assert [name for _, name, _ in shown(files.unite())] == ["hat", "shoe"]


def test_files_are_united_by_name_not_by_id(files):
    files.add((1, "hat", "head"), (2, "shoe", "legs and feet"))
    files.add((1, "Shoe", ""), (3, "hat"), (2, "belt", "waist"))
    united = files.unite()
    assert shown(united) == [
        (1, "hat", "head"),
        (2, "shoe", "legs and feet"),
        (4, "belt", "waist"),
    ]
    assert united.id_of == {(0, 1): 1, (0, 2): 2, (1, 1): 2, (1, 3): 1, (1, 2): 4}
    assert not united.by_category


def test_unknown_supercategories_make_each_category_a_class(files):
    files.add((1, "hat", "head"), (2, "mask", "things"))
    assert files.unite().by_category


def test_mapping_decides_and_may_use_names_of_its_own(files):
    files.add((1, "T-shirt", "head"), (2, "jeans"), (3, "person"))
    united = files.unite({"t-shirt": "top", "jeans": "Top ", "person": None})
    assert shown(united) == [(1, "T-shirt", "top"), (2, "jeans", "top")]
    assert not united.by_category
    assert "categories left out by --classes: 1 (person)" in files.said()


def test_mapping_may_keep_names_apart_that_differ_in_case(files):
    files.add((1, "Small"), (2, "small"))
    united = files.unite({"Small": "shoes", "small": "bags"})
    assert [own for _, _, own in shown(united)] == ["shoes", "bags"]


@pytest.mark.parametrize(
    ("categories", "mapping", "message"),
    [
        ([(1, "background")], None, "no category that can be a class"),
        ([(1, "a", "head"), (2, "a", "neck")], None, 'supercategories "head" and "neck"'),
        ([(1, "a", "head"), (2, "A ", "neck")], None, 'supercategories "head" and "neck"'),
        ([(i, f"c{i}") for i in range(1, 256)], None, "255 categories would be 256 classes"),
        ([(1, "a"), (2, "b")], {"a": "x"}, "gives no class to b; expected every"),
        ([(1, "T-shirt")], {"T-shirts": "x"}, r'"T-shirts" is no category .*mean T-shirt'),
        (
            [(1, "a", "upperbdy"), (2, "b", "head")],
            None,
            r'"a" has the unknown class "upperbdy" \(did you mean upperbody',
        ),
    ],
)  # fmt: skip
def test_categories_that_cannot_be_classes_are_refused(files, categories, mapping, message):
    files.add(*categories)
    with pytest.raises(ValueError, match=message):
        files.unite(mapping)


def test_own_names_are_no_slips(files):
    """Two own ones among the 12, or one that is like none of them."""
    files.add((1, "a"), (2, "b"), (3, "c"))
    assert shown(files.unite({"a": "upperbdy", "b": "headwear", "c": "head"}))
    assert shown(files.unite({"a": "headwear", "b": "head", "c": "neck"}))


def test_254_classes_fit(files):
    files.add(*((i, f"c{i}") for i in range(1, 301)))
    mapping = {f"c{i}": f"class {i % 254}" for i in range(1, 301)}
    assert len(shown(files.unite(mapping))) == 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{'a': 'b'}", r"is not JSON .*stand in double quotes"),
        ("[1]", "holds a list; expected an object of category -> class"),
        ('{"a": 2}', '"a" has the class 2; expected the name of a class'),
        ('{"a": " "}', "expected the name of a class, or null"),
        ('{"a": "b", "a": null}', "the key 'a' occurs twice"),
        (
            '{"a": "b", "A ": null}',
            '"a" and "A " are one name, but have the classes \'b\' and None',
        ),
    ],
)
def test_bad_mapping_is_one_clear_error(tmp_path, text, message):
    path = tmp_path / "classes.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_classes(path)


ENCODINGS = ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_mapping_is_read_as_editors_and_shells_write_it(tmp_path, encoding):
    path = tmp_path / "classes.json"
    path.write_bytes('{"Mütze": "head", "hose": null, "HOSE": null}\r\n'.encode(encoding))
    assert read_classes(path) == {"Mütze": "head", "hose": None, "HOSE": None}


def test_a_mapping_names_categories_as_the_file_does_whatever_they_hold(files, tmp_path):
    name = "\x1b[31mred\u202e"
    files.add((5, name), (6, "hat"))
    path = tmp_path / "classes.json"
    path.write_text(json.dumps({name: "\x1bmine", "hat": "head"}))
    united = files.unite(read_classes(path))
    assert shown(united) == [(5, "\\x1b[31mred\\u202e", "\\x1bmine"), (6, "hat", "head")]


def test_names_in_a_mapping_that_are_no_category_are_said(files):
    files.add((1, "shirt"), (2, "background"))
    mapping = {"Shirt": "upperbody", "background": None, "boots": "foot", "sandals": "foot"}
    assert shown(files.unite(mapping)) == [(1, "shirt", "upperbody")]
    assert "no category, not used: 2 (boots; sandals)" in files.said()


def test_background_in_a_mapping_leaves_out(tmp_path):
    path = tmp_path / "classes.json"
    path.write_text('{"a": "Background", "b": null, "c": "top"}')
    assert read_classes(path) == {"a": None, "b": None, "c": "top"}
    with pytest.raises(FileNotFoundError, match="expected a JSON of category -> class"):
        read_classes(tmp_path / "no.json")
