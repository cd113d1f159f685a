"""Bars where somebody watches, a line now and then in batch runs."""

import io
import sys
import threading
from types import SimpleNamespace

import pytest
from tqdm import tqdm
from tqdm.notebook import tqdm_notebook

from clothseg_utils.core import progress
from clothseg_utils.core.progress import (
    in_notebook,
    is_attended,
    never_silent,
    progress_bar,
)


class Terminal(io.StringIO):
    def isatty(self):
        return True


# Set in the test's own body: pytest puts its capture back between a fixture and the test.
def redirect_stderr(monkeypatch, stream):
    monkeypatch.setattr(sys, "stderr", stream)
    return stream


def enter_kernel(monkeypatch, **kernel):
    """Make this process look like a Jupyter kernel."""
    shell = SimpleNamespace(kernel=SimpleNamespace(**kernel))
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))


def test_a_terminal_is_watched(monkeypatch):
    terminal = redirect_stderr(monkeypatch, Terminal())
    assert is_attended()
    assert not in_notebook()
    assert list(progress_bar(range(3), desc="masks", mininterval=0)) == [0, 1, 2]
    assert "masks: 100%" in terminal.getvalue()


def test_a_file_is_not_watched(monkeypatch):
    batch = redirect_stderr(monkeypatch, io.StringIO())
    assert not is_attended()
    assert list(progress_bar(range(3), desc="masks", mininterval=0)) == [0, 1, 2]
    assert batch.getvalue() == ""


def test_long_work_says_how_far_it_is_where_nobody_watches(monkeypatch, capsys):
    """Lines of their own on stdout, which papermill echoes; none for work that is done soon."""
    batch = redirect_stderr(monkeypatch, io.StringIO())
    assert list(progress_bar(range(3), desc="evaluate", unit="photo")) == [0, 1, 2]
    assert capsys.readouterr().out == ""
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    assert list(progress_bar(range(2), desc="evaluate", unit="photo")) == [0, 1]
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["evaluate: 1 of 2 photos", "evaluate: 2 of 2 photos"]
    with progress_bar(total=3000, desc="rasterizing", unit="image") as bar:
        bar.update(2000)
    assert capsys.readouterr().out.splitlines()[-1] == "rasterizing: 2,000 of 3,000 images"
    assert list(progress_bar(iter("ab"), desc="reading", unit="file")) == ["a", "b"]
    assert capsys.readouterr().out.splitlines()[-1] == "reading: 2 files"
    assert batch.getvalue() == ""


def test_an_interactive_notebook_gets_a_widget(monkeypatch):
    redirect_stderr(monkeypatch, io.StringIO())
    enter_kernel(monkeypatch, _allow_stdin=True)
    assert in_notebook()
    assert is_attended()
    bar = progress_bar(range(3), display=False)  # made, not shown: there is no front end here
    assert isinstance(bar, tqdm_notebook)
    assert list(bar) == [0, 1, 2]


@pytest.mark.parametrize("kernel", [{"_allow_stdin": False}, {}])
def test_papermill_gets_no_bar(monkeypatch, capsys, kernel):
    """Its log may be a terminal; the notebook that it fills is not watched."""
    terminal = redirect_stderr(monkeypatch, Terminal())
    enter_kernel(monkeypatch, **kernel)
    assert in_notebook()
    assert not is_attended()
    bar = progress_bar(range(3))
    assert not isinstance(bar, tqdm_notebook)
    assert list(bar) == [0, 1, 2]
    assert terminal.getvalue() == ""
    assert capsys.readouterr().out == ""


def test_silent_work_is_told_of(monkeypatch):
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.05)
    stream, is_told = io.StringIO(), threading.Event()

    def describe():
        is_told.set()
        return "at work: Train"

    with never_silent(stream, describe) as output:
        output.write("epoch 1\n")
        assert is_told.wait(timeout=60)
    first, *others = stream.getvalue().splitlines()
    assert first == "epoch 1"
    assert set(others) == {"at work: Train"}


def test_work_that_speaks_is_not_told_of():
    stream = io.StringIO()
    with never_silent(stream, lambda: "at work") as output:
        output.write("epoch 1\n")
    assert stream.getvalue() == "epoch 1\n"


@pytest.mark.parametrize("shell", [None, SimpleNamespace()])
def test_ipython_without_a_kernel_is_a_terminal(monkeypatch, shell):
    redirect_stderr(monkeypatch, Terminal())
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    assert not in_notebook()
    assert is_attended()


def test_a_bar_counts_by_hand_too(monkeypatch):
    redirect_stderr(monkeypatch, Terminal())
    with progress_bar(total=2, unit="photo") as bar:
        bar.update(2)
    assert isinstance(bar, tqdm)
    assert bar.n == 2
