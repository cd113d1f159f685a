"""The house: who imports whom, and that an import does nothing else."""

import ast
import json
import subprocess
import sys

import pytest

from clothseg_utils.core.files import repo_root

PACKAGE_DIR = repo_root() / "clothseg_utils"

MODULE_ORDER = [  # a module imports only from modules above it
    "wording",
    "classes",
    "config",
    "runs",
    "progress",
    "photos",
    "geometry",
    "augment",
    "download",
    "wardrobe",
    "synthetic",
    "coco",
    "convert",
    "masks",
    "dataset",
    "datamodule",
    "losses",
    "metrics",
    "boundaries",
    "calibration",
    "composites",
    "strata",
    "errors",
    "overlays",
    "figures",
    "decoder",
    "network",
    "model",
    "live",
    "train",
    "inference",
    "predict",
    "trials",
    "evaluate",
    "compare",
    "latex",
    "report",
    "widgets",
    "pipeline",
    "sweep",
    "__main__",
]
WITH_TORCH = ["dataset", "datamodule", "losses", "decoder", "network", "model", "live", "train"]
WITH_TORCH += ["inference", "predict", "trials", "evaluate"]
WITHOUT_TORCH = [module for module in MODULE_ORDER if module not in WITH_TORCH]

# Runs in a process of its own and writes what it saw to the file argv[1]. It imports argv[2:] in
# order and says after each which of the heavy libraries are loaded by then.
OBSERVER = """
import importlib, json, random, sys
import numpy

HEAVY = ("torch", "pytorch_lightning", "matplotlib", "pandas")
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


if "network" in modules:
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


def imported_modules(path):
    """Modules of the package that a source file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} has a relative import in line {node.lineno}"
            names.add(node.module)
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    parts = (name.split(".") for name in names)
    return {part[1] for part in parts if part[0] == "clothseg_utils" and len(part) > 1}


def test_every_module_has_its_place():
    modules = {path.stem for path in PACKAGE_DIR.rglob("*.py")} - {"__init__"}
    assert sorted(MODULE_ORDER) == sorted(modules)


@pytest.mark.parametrize("module", MODULE_ORDER)
def test_a_module_imports_only_from_modules_above_it(module):
    """Imports inside functions and for type checkers count too."""
    imported = imported_modules(PACKAGE_DIR / f"{module}.py") & set(MODULE_ORDER)
    below = set(MODULE_ORDER[MODULE_ORDER.index(module) :])
    assert imported & below == set()


def test_importing_the_package_imports_none_of_its_modules():
    assert imported_modules(PACKAGE_DIR / "__init__.py") == set()


def test_the_check_finds_every_form_of_import(tmp_path):
    source = tmp_path / "a.py"
    source.write_text(
        "import clothseg_utils.masks\n"
        "from clothseg_utils import coco, __version__\n"
        "def f():\n    from clothseg_utils.train import train\n"
        "import os.path, clothseg\n"
    )
    assert imported_modules(source) & set(MODULE_ORDER) == {"masks", "coco", "train"}


@pytest.mark.slow
def test_modules_without_torch_do_nothing_when_imported(tmp_path):
    seen = observe_imports(tmp_path, WITHOUT_TORCH)
    check_does_nothing(seen)
    assert [module for module, loaded in seen["loaded"].items() if "torch" in loaded] == []
    # Drawing figures is the only job here that needs these two.
    above_figures = WITHOUT_TORCH[: WITHOUT_TORCH.index("figures")]
    assert [m for m in above_figures if {"matplotlib", "pandas"} & set(seen["loaded"][m])] == []


@pytest.mark.slow
def test_modules_with_torch_do_nothing_when_imported(tmp_path):
    """`predict` comes first: using a network must not wait for what only training needs."""
    rest = [module for module in WITH_TORCH if module not in ("network", "predict")]
    seen = observe_imports(tmp_path, ["network", "predict", *rest])
    check_does_nothing(seen)
    assert seen["loaded"]["network"] == ["torch"]
    assert seen["loaded"]["predict"] == ["torch"]


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
    assert imported & {"torch", "numpy", "matplotlib", "pandas"} == set()
