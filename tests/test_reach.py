"""What imports reach, in a package of a few files."""

import json

import pytest

from clothseg_utils.core import reach
from clothseg_utils.core.reach import code_hash, notebook_imports

SOURCES = {
    "__init__.py": "def __getattr__(name):\n    from clothseg_utils.a.one import one",
    "a/__init__.py": "import clothseg_utils.c",
    "a/one.py": "import numpy\nfrom clothseg_utils.b import two",
    "a/notes.txt": "",
    "a/pages/page.j2": "",
    "b/__init__.py": "",
    "b/two.py": "def f():\n    from clothseg_utils.d import x",
    "b/three.py": "",
    "c.py": "",
    "d.py": "from clothseg_utils.a.one import one",
    "f/__init__.py": "",
    "f/e.py": '"""from clothseg_utils.c import x"""',
}
OF_ONE = {*(n for n in SOURCES if n[:2] in ("a/", "b/")), "c.py", "d.py"} - {
    "b/three.py",
    "a/notes.txt",
}


@pytest.fixture
def package(tmp_path, monkeypatch):
    folder = tmp_path / "clothseg_utils"
    for name, source in SOURCES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(source)
    monkeypatch.setattr(reach, "_PACKAGE_DIR", folder)
    return folder


def reached(package, *imports, **options):
    """The files that decide a hash."""
    before = code_hash(imports, **options)
    found = set()
    for name, source in SOURCES.items():
        (package / name).write_text(source + "\n# changed")
        if code_hash(imports, **options) != before:
            found.add(name)
        (package / name).write_text(source)
    assert code_hash(imports, **options) == before
    return found


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("clothseg_utils.a.one", OF_ONE),  # folders on the way, inside functions, in a circle
        ("clothseg_utils.a.one.name", OF_ONE),
        ("clothseg_utils.b.two", OF_ONE),
        ("clothseg_utils.b", {"b/__init__.py"}),
        ("clothseg_utils.b.name", {"b/__init__.py"}),
        ("clothseg_utils.f.e", {"f/__init__.py", "f/e.py"}),  # what a docstring says is no import
        ("clothseg_utils.name", {*OF_ONE, "__init__.py"}),
        ("clothseg_utils", {*OF_ONE, "__init__.py"}),
        ("clothseg_utilities.c", set()),
        ("numpy.random", set()),
    ],
)
def test_reach_of_an_import(package, name, expected):
    assert reached(package, name) == expected


def test_what_is_left_out_is_not_followed(package):
    without = ("clothseg_utils.b.two", "clothseg_utils.c")
    assert reached(package, "clothseg_utils.a.one", without=without) == {
        name for name in OF_ONE if name.startswith("a/")
    } | {"b/__init__.py"}
    assert reached(package, "clothseg_utils.a.one", without=("clothseg_utils.a",)) == set()


def test_a_new_file_counts_only_where_something_reaches_it(package):
    before = code_hash(["clothseg_utils.a.one"])
    (package / "b" / "four.py").touch()
    (package / "b" / "__pycache__").mkdir()
    (package / "b" / "__pycache__" / "two.pyc").touch()
    assert code_hash(["clothseg_utils.a.one"]) == before
    for left in ("a/.one.py.swp", "a/one.py~", "a/.DS_Store"):  # by editors and desktops
        (package / left).touch()
    assert code_hash(["clothseg_utils.a.one"]) == before
    (package / "a" / "pages" / "new.j2").touch()
    assert code_hash(["clothseg_utils.a.one"]) != before


def test_imports_of_a_notebook_are_those_of_its_code(tmp_path):
    cells = [
        ("markdown", "import markdown"),
        ("code", "import numpy as np\nfrom a.b import (\n    c,\n    d as e,\n)\n"),
        ("code", "%load_ext x\n!ls\nimport f\n"),
        ("code", "if True:\n    %time f()\n"),
    ]
    path = tmp_path / "a.ipynb"
    rows = [{"cell_type": kind, "source": text.splitlines(True)} for kind, text in cells]
    path.write_text(json.dumps({"cells": rows}))
    assert notebook_imports(path) == ["numpy", "a.b.c", "a.b.d", "f"]


def test_a_cell_that_is_no_python_is_named(tmp_path):
    """Its imports could not count, and the step would be skipped wrongly."""
    path = tmp_path / "a.ipynb"
    path.write_text(json.dumps({"cells": [{"cell_type": "code", "source": ["import ("]}]}))
    with pytest.raises(ValueError, match=r"a\.ipynb has a cell that is no Python: import \("):
        notebook_imports(path)
