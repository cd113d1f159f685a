"""The house: which folder imports from which, and that an import does nothing else."""

import ast
import json
import subprocess
import sys

import pytest

from clothseg_utils.core.files import repo_root

PACKAGE_DIR = repo_root() / "clothseg_utils"

# In the order of the work: a folder imports only from itself and from folders above it.
FOLDERS = (
    "core",
    "drawing",
    "data",
    "intake",
    "scores",
    "pictures",
    "prediction",
    "network",
    "training",
    "report",
    "workflow",
)
ROOMS = sorted(path for path in PACKAGE_DIR.rglob("*.py") if path.parent != PACKAGE_DIR)
DOORS = {"network", "training"}
TORCH = {"torch", "torchvision", "timm", "segmentation_models_pytorch"}
MOST_LINES = {"widgets.py": 710}
MODULES = [
    f"{path.parent.name}.{path.stem}"
    for path in sorted(ROOMS, key=lambda path: FOLDERS.index(path.parent.name))
    if path.stem != "__init__"
]
WITH_TORCH = [module for module in MODULES if module.partition(".")[0] in DOORS]
WITHOUT_TORCH = [module for module in MODULES if module not in WITH_TORCH]

# Runs in a process of its own and writes what it saw to the file argv[1]. It imports argv[2:] in
# order and says after each which of the heavy libraries are loaded by then.
OBSERVER = """
import importlib, json, random, sys
import numpy

HEAVY = ("torch", "pytorch_lightning", "albumentations", "matplotlib", "pandas")
NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto")
report_path, *modules = sys.argv[1:]
seen = {"loaded": {}, "connections": [], "opened": [], "rng": []}


def opened_by_us():
    # Up the stack: an import statement on the way means that Python, or a library's own
    # start-up, opens the file; otherwise one of our modules reads it while it is imported.
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if "importlib" in name:
            return False
        if "clothseg_utils" in name:
            return True
        frame = frame.f_back
    return False


def watch(event, arguments):
    if event in NETWORK:
        seen["connections"].append(event)
        raise OSError("no network in this test")
    if event in ("open", "os.listdir", "os.scandir", "subprocess.Popen") and opened_by_us():
        seen["opened"].append(f"{event} {arguments[0]}")


def rng_states():
    states = {"random": random.getstate(), "numpy": str(numpy.random.get_state())}
    if "torch" in sys.modules:
        states["torch"] = sys.modules["torch"].get_rng_state().tolist()
    return states


if any(module.startswith("network.") for module in modules):
    import rich.style  # draws an id from `random` when it is imported
    import torch  # to look at its generator before and after
before = rng_states()
sys.addaudithook(watch)
for module in modules:
    importlib.import_module(f"clothseg_utils.{module}")
    seen["loaded"][module] = [name for name in HEAVY if name in sys.modules]
seen["rng"] = [name for name, state in rng_states().items() if before[name] != state]
with open(report_path, "w") as file:
    json.dump(seen, file)
"""


def observe_imports(tmp_path, modules):
    """Import modules in a fresh process; return what it saw."""
    report_path = tmp_path / "seen.json"
    process = subprocess.run(
        [sys.executable, "-c", OBSERVER, report_path, *modules],
        cwd=repo_root(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert process.returncode == 0, process.stderr
    assert (process.stdout, process.stderr) == ("", ""), "an import prints"
    return json.loads(report_path.read_text())


def check_does_nothing(seen):
    assert seen["connections"] == []
    assert seen["opened"] == []
    assert seen["rng"] == [], "an import seeds a random generator or draws from it"


def imported_names(path):
    """What a source file imports, anywhere in it, as dotted names."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import in line {node.lineno}"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def imported_libraries(path):
    return {name.partition(".")[0] for name in imported_names(path)}


def imported_folders(path):
    parts = (name.split(".") for name in imported_names(path))
    return {part[1] for part in parts if part[0] == "clothseg_utils" and len(part) > 1}


def room_id(path):
    return f"{path.parent.name}/{path.name}"


def test_every_room_is_in_one_of_the_folders():
    assert {path.parent.relative_to(PACKAGE_DIR).as_posix() for path in ROOMS} == set(FOLDERS)
    assert sorted(path.name for path in PACKAGE_DIR.glob("*.py")) == ["__init__.py", "__main__.py"]


@pytest.mark.parametrize("room", ROOMS, ids=room_id)
def test_a_folder_imports_only_from_folders_above_it(room):
    """Imports inside functions and for type checkers count too."""
    above = FOLDERS[: FOLDERS.index(room.parent.name) + 1]
    assert imported_folders(room) <= set(above)


@pytest.mark.parametrize("room", ROOMS, ids=room_id)
def test_libraries_stay_behind_their_doors(room):
    libraries, folder = imported_libraries(room), room.parent.name
    if folder not in DOORS:
        assert not libraries & TORCH
    if folder != "training":
        assert not libraries & {"pytorch_lightning", "lightning"}
    if folder != "pictures":
        assert not libraries & {"matplotlib", "seaborn", "matplotlib_inline"}
    if folder in ("core", "drawing", "data", "intake") and room.name != "exploration.py":
        assert "pandas" not in libraries


@pytest.mark.parametrize("room", ROOMS, ids=room_id)
def test_no_room_grows_too_large(room):
    n_lines = len(room.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MOST_LINES.get(room.name, 600)


def test_the_check_finds_every_form_of_import(tmp_path):
    source = tmp_path / "a.py"
    source.write_text(
        "import clothseg_utils.data.masks\n"
        "from clothseg_utils import core, __version__\n"
        "def f():\n    from clothseg_utils.training.train import train\n"
        "import os.path, clothseg\n"
    )
    assert imported_folders(source) & set(FOLDERS) == {"data", "core", "training"}


@pytest.mark.slow
def test_modules_without_torch_do_nothing_when_imported(tmp_path):
    seen = observe_imports(tmp_path, WITHOUT_TORCH)
    check_does_nothing(seen)
    assert [module for module, loaded in seen["loaded"].items() if "torch" in loaded] == []
    # Drawing figures is the only job here that needs these two.
    early = [
        m for m in WITHOUT_TORCH if m.partition(".")[0] in ("core", "drawing", "data", "intake")
    ]
    assert [m for m in early if {"matplotlib", "pandas"} & set(seen["loaded"][m])] == []
    prediction = observe_imports(tmp_path, ["prediction.predict"])
    assert prediction["loaded"] == {"prediction.predict": []}


@pytest.mark.slow
def test_modules_with_torch_do_nothing_when_imported(tmp_path):
    """Using a network must not wait for what only training and figures need."""
    seen = observe_imports(tmp_path, WITH_TORCH)
    check_does_nothing(seen)
    assert seen["loaded"]["network.segmenter"] == ["torch"]


def test_the_observer_notices(tmp_path, monkeypatch):
    """A module that does all that is forbidden is caught at each of it."""
    package = tmp_path / "clothseg_utils"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "bad.py").write_text(
        "import contextlib, pathlib, random, socket\n"
        "import numpy as np\n"
        "pathlib.Path(__file__).read_text()\n"
        "with contextlib.suppress(OSError):\n    socket.getaddrinfo('localhost', 80)\n"
        "random.random()\n"
        "np.random.seed(1)\n"
    )
    monkeypatch.setattr("test_architecture.repo_root", lambda: tmp_path)
    seen = observe_imports(tmp_path, ["bad"])
    assert seen["connections"] == ["socket.getaddrinfo"]
    assert seen["opened"] == [f"open {package / 'bad.py'}"]
    assert sorted(seen["rng"]) == ["numpy", "random"]


def test_help_answers_without_torch():
    process = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "clothseg_utils", "--help"],
        cwd=repo_root(),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert process.returncode == 0
    assert "Usage: python -m clothseg_utils" in process.stdout
    imported = {line.rpartition("|")[2].strip() for line in process.stderr.splitlines()}
    assert "typer" in imported
    assert imported & {"torch", "numpy", "albumentations", "matplotlib", "pandas"} == set()
