"""README and docs/: what they name is there."""

import re

import pytest
from test_architecture import FOLDERS, PACKAGE_DIR

from clothseg_utils.core.config import field_sections
from clothseg_utils.core.files import repo_root

ROOT = repo_root()
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "data/README.md")]
PAGES += [
    ROOT / "outputs/README.md",
    ROOT / "tests/FAULTS.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
TEXTS = {page.relative_to(ROOT).as_posix(): page.read_text(encoding="utf-8") for page in PAGES}
ROWS = [
    (path, re.findall(r"`(\w+)`", names))
    for names, path in re.findall(
        r"(?m)^\|[^|]*\|([^|]*)\| `(.+\.py)` \|$", TEXTS["docs/ARCHITECTURE.md"]
    )
]


@pytest.mark.parametrize("page", TEXTS)
def test_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)]+)\)", TEXTS[page])]
    paths = [(ROOT / page).parent / link for link in links if not link.startswith("https://")]
    assert [path for path in paths if not path.exists()] == []


@pytest.mark.parametrize("page", TEXTS)
def test_source_files_are_where_a_page_says(page):
    """Rooms may be named without the package's folder."""
    paths = re.findall(r"`([\w./-]+\.(?:py|ipynb|j2))`", TEXTS[page])
    roots = (ROOT, PACKAGE_DIR, (ROOT / page).parent)
    assert [p for p in paths if not any((root / p).exists() for root in roots)] == []


@pytest.mark.parametrize("page", TEXTS)
def test_settings_are_fields(page):
    known = {f"{section}.{field}" for field, section in field_sections().items()}
    named = set(re.findall(r"--set (\w+\.\w+)=", TEXTS[page]))
    assert named - known <= {"section.field"}


@pytest.mark.parametrize("path", sorted({path for path, _ in ROWS}))
def test_functions_are_in_the_room_that_the_architecture_names(path):
    source = (PACKAGE_DIR / path).read_text(encoding="utf-8")
    names = [name for room, names in ROWS if room == path for name in names]
    defined = r"(?m)^(?: *(?:def|class) )?{}\b"
    assert names
    assert [name for name in names if not re.search(defined.format(name), source)] == []


def test_tests_of_faults_are_there():
    code = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("*.py"))
    named = re.findall(r"`(test_\w+)`", TEXTS["tests/FAULTS.md"])
    assert len(named) > 50
    assert [name for name in named if f"\ndef {name}(" not in code] == []


def test_folders_are_listed_in_the_order_of_the_work():
    table = re.findall(r"(?m)^\| `(\w+)/` \|", TEXTS["docs/ARCHITECTURE.md"])
    tree = re.findall(r"(?m)^ {6}(\w+)/ ", TEXTS["README.md"])
    assert tuple(table) == tuple(tree) == FOLDERS


def test_readme_is_read_to_its_end():
    assert len(TEXTS["README.md"].splitlines()) < 120
