"""The set-up: one source of pins, and a Makefile that survives what users do to it."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
LOCK_TEXT = (ROOT / "requirements.lock").read_text()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
ENVIRONMENT = yaml.safe_load((ROOT / "environment.yml").read_text())
CONDA_PYTHON = next(
    entry.removeprefix("python=")
    for entry in ENVIRONMENT["dependencies"]
    if isinstance(entry, str) and entry.startswith("python=")
)
PIP_ENTRIES = next(entry for entry in ENVIRONMENT["dependencies"] if isinstance(entry, dict))["pip"]
# What markers ask for; the set is pinned for all of them.
SYSTEMS = {
    "Linux": {"sys_platform": "linux", "os_name": "posix", "platform_machine": "x86_64"},
    "macOS": {"sys_platform": "darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "os_name": "nt", "platform_machine": "AMD64"},
}


def lock_entries() -> list[str]:
    """Each entry in one line: the pin, its marker, its hashes."""
    entries = LOCK_TEXT.replace(" \\\n", " ").splitlines()
    return [re.sub(" +", " ", line) for line in entries if not line.startswith("#")]


def pins(environment: dict[str, str]) -> dict[str, str]:
    """Package -> version that the lock has for one Python and system."""
    found = {}
    for entry in lock_entries():
        requirement = Requirement(entry.split(" --hash")[0])
        if requirement.marker is None or requirement.marker.evaluate(environment):
            name = canonicalize_name(requirement.name)
            assert name not in found, f"{name} is pinned twice for one system"
            found[name] = str(requirement.specifier).removeprefix("==")
    return found


def test_every_lock_entry_is_one_exact_pin_with_hashes() -> None:
    """No range, no address, and no index, host or find-links line."""
    exact = re.compile(
        r"[a-z0-9-]+==[0-9][0-9a-z.]*( ; [^;]+?)?( --hash=sha256:[0-9a-f]{64})+", re.ASCII
    )
    assert [entry for entry in lock_entries() if not exact.fullmatch(entry)] == []
    assert "/" not in LOCK_TEXT


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_dependency_is_pinned_within_its_range(python: str, system: str) -> None:
    versions = {"python_version": python, "python_full_version": f"{python}.9"}
    pinned = pins({**default_environment(), **SYSTEMS[system], **versions})
    extras = PROJECT["optional-dependencies"]
    named = [*PROJECT["dependencies"], *extras["dev"], *extras["export"], *extras["onnx"]]
    misfits = {}
    for requirement in map(Requirement, named):
        pin = pinned.get(canonicalize_name(requirement.name))
        if pin is None or not requirement.specifier.contains(pin, prereleases=True):
            misfits[str(requirement)] = pin
    assert misfits == {}


def test_requirements_without_torch_are_the_projects_own() -> None:
    lines = (ROOT / "requirements-onnx.txt").read_text().splitlines()[1:]
    ours = PROJECT["dependencies"] + PROJECT["optional-dependencies"]["onnx"]
    assert set(lines) - set(ours) == set()


def test_build_backend_is_in_the_lock() -> None:
    """The package is installed without build isolation: nothing unpinned is fetched for it."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text())
    for line in pyproject["build-system"]["requires"]:
        requirement = Requirement(line)
        assert requirement.specifier.contains(pins(default_environment())[requirement.name])


def test_conda_and_make_take_the_lowest_python_allowed() -> None:
    (version,) = re.findall(r"^PYTHON_VERSION := (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert version == CONDA_PYTHON
    allowed = SpecifierSet(PROJECT["requires-python"])
    major, minor = map(int, CONDA_PYTHON.split("."))
    assert allowed.contains(f"{major}.{minor}.0")
    assert not allowed.contains(f"{major}.{minor - 1}.99")


def test_conda_pins_come_from_the_lock_alone() -> None:
    assert PIP_ENTRIES == ["--require-hashes", "--only-binary :all:", "-r requirements.lock"]
    conda = {entry.split("=")[0] for entry in ENVIRONMENT["dependencies"] if isinstance(entry, str)}
    assert conda == {"python", "pip"}


# --- the Makefile, run with a stand-in for Python that installs nothing ---

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# Writes its arguments to $CALLS; makes a "virtual environment" of itself; "renews" the lock; fails
# at `pip install` and `uv` while the file $BROKEN exists.
FAKE_PYTHON = """#!/bin/sh
echo "$*" >> "$CALLS"
case "$*" in
    "-m venv"*) rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python ;;
    "-m pip install"*) [ ! -e "$BROKEN" ] ;;
    "-m uv"*) [ ! -e "$BROKEN" ] && touch requirements.lock ;;
esac
"""


class Checkout:
    """A copy of the set-up files, in a path with a space, and `make` in it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "a clone"
        self.path.mkdir()
        for name in ("Makefile", "requirements.lock", "pyproject.toml", ".gitattributes"):
            shutil.copy(ROOT / name, self.path)
        fake_python = folder / "fake_python"
        fake_python.write_text(FAKE_PYTHON)
        fake_python.chmod(0o755)
        self.stamp = self.path / ".venv" / ".installed"
        self.broken = folder / "broken"
        self._calls = folder / "calls"
        keep = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
        self.environment = {
            **keep,
            "PYTHON": str(fake_python),
            "CALLS": str(self._calls),
            "BROKEN": str(self.broken),
            "GIT_CEILING_DIRECTORIES": str(folder),
            "GIT_CONFIG_GLOBAL": os.devnull,
        }

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        self._calls.write_text("")
        return subprocess.run(
            ["make", "-C", str(self.path), "--no-print-directory", *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """What the last make ran, without its questions to the Python at hand."""
        return [line for line in self._calls.read_text().splitlines() if line.startswith("-m ")]

    def git(self, *arguments: str) -> str:
        return subprocess.run(
            ["git", *arguments],
            cwd=self.path,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        ).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


INSTALLATION = [
    "-m venv --clear .venv",
    "-m pip install --require-hashes --only-binary :all: -r requirements.lock",
    "-m pip install --no-deps --no-build-isolation -e .",
]
TESTS = "-m pytest -n 2 --dist loadfile --no-loadscope-reorder"


@needs_make
def test_make_alone_lists_every_target(checkout: Checkout) -> None:
    listing = checkout.make().stdout.splitlines()
    (phony,) = re.findall(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), re.M)
    assert [line.split()[1] for line in listing] == phony.split()
    assert {"setup", "pipeline", "test", "lab", "tensorboard"} < set(phony.split())
    assert not checkout.stamp.exists()


@needs_make
def test_target_makes_the_environment_first(checkout: Checkout) -> None:
    assert checkout.make("pipeline").returncode == 0
    assert checkout.calls == [*INSTALLATION, "-m clothseg_utils run --profile demo"]


@needs_make
def test_second_setup_does_nothing(checkout: Checkout) -> None:
    first = checkout.make("setup")  # outside git, and quiet about it
    assert (first.returncode, first.stderr) == (0, "")
    assert checkout.calls == INSTALLATION
    assert checkout.make("setup").returncode == 0
    assert checkout.calls == []


@needs_make
def test_changed_pins_are_installed_into_the_environment(checkout: Checkout) -> None:
    checkout.make("setup")
    later = checkout.stamp.stat().st_mtime + 10
    os.utime(checkout.path / "requirements.lock", (later, later))
    checkout.make("test")
    assert checkout.calls == [*INSTALLATION[1:], TESTS]


@needs_make
def test_broken_installation_is_never_built_upon(checkout: Checkout) -> None:
    checkout.broken.touch()
    assert checkout.make("test").returncode != 0
    assert checkout.calls == INSTALLATION[:2]
    assert not checkout.stamp.exists()
    checkout.broken.unlink()
    assert checkout.make("test").returncode == 0
    assert checkout.calls == [*INSTALLATION, TESTS]
    assert checkout.stamp.exists()


@needs_make
def test_renewed_lock_is_installed_and_tested(checkout: Checkout) -> None:
    checkout.make("setup")
    assert checkout.make("lock").returncode == 0
    renewal, *rest = checkout.calls
    assert renewal.startswith("-m uv pip compile ")
    assert {"--universal", "--generate-hashes", "--upgrade"} < set(renewal.split())
    assert rest == [*INSTALLATION[1:], TESTS]
    checkout.broken.touch()
    assert checkout.make("lock").returncode != 0
    assert len(checkout.calls) == 1  # no tests of a set that was not renewed


@needs_make
def test_no_fitting_python_is_one_clear_line(checkout: Checkout) -> None:
    result = checkout.make("setup", "PYTHON=python-of-nowhere false")
    message = [line for line in result.stderr.splitlines() if not line.startswith("make:")]
    assert result.returncode != 0
    assert message == [
        "No Python with venv found (tried: python-of-nowhere false); expected 3.11 or later. "
        "Install it, with its venv package, or name one: make setup PYTHON=..."
    ]
    too_new = checkout.make("setup", f"PYTHON={sys.executable}", "PYTHON_VERSION=3.999")
    assert "expected 3.999 or later" in too_new.stderr
    assert not (checkout.path / ".venv").exists()


@pytest.mark.slow
@needs_make
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
def test_setup_strips_outputs_from_committed_notebooks(checkout: Checkout) -> None:
    """Outputs and counts go; the parameters tag and the kernel, which papermill needs, stay."""
    checkout.git("init", "-q")
    assert checkout.make("setup").returncode == 0
    (checkout.path / ".venv" / "bin" / "python").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" "$@"\n'
    )
    output = nbformat.v4.new_output("stream", text="secret")
    cell = nbformat.v4.new_code_cell(
        "1 + 1", execution_count=7, metadata={"tags": ["parameters"]}, outputs=[output]
    )
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    (checkout.path / "notebooks").mkdir()
    nbformat.write(notebook, checkout.path / "notebooks" / "run.ipynb")
    checkout.git("add", "notebooks/run.ipynb")
    staged = json.loads(checkout.git("show", ":notebooks/run.ipynb"))
    assert staged["cells"][0]["outputs"] == []
    assert staged["cells"][0]["execution_count"] is None
    assert staged["cells"][0]["metadata"] == {"tags": ["parameters"]}
    assert staged["metadata"]["kernelspec"] == kernel
