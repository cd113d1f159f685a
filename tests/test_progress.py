"""Bars where somebody watches, silence in batch runs."""

import io
import sys
from types import SimpleNamespace

import pytest
from tqdm import tqdm
from tqdm.notebook import tqdm_notebook

from clothseg_utils.progress import in_notebook, is_attended, progress_bar


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


def test_a_caller_may_silence_the_bar(monkeypatch):
    terminal = redirect_stderr(monkeypatch, Terminal())
    assert list(progress_bar(range(3), disable=True)) == [0, 1, 2]
    assert terminal.getvalue() == ""


def test_nobody_can_force_a_bar_where_nobody_watches(monkeypatch):
    batch = redirect_stderr(monkeypatch, io.StringIO())
    assert list(progress_bar(range(3), disable=False, mininterval=0)) == [0, 1, 2]
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
def test_papermill_gets_no_bar(monkeypatch, kernel):
    """Its log may be a terminal; the notebook that it fills is not watched."""
    terminal = redirect_stderr(monkeypatch, Terminal())
    enter_kernel(monkeypatch, **kernel)
    assert in_notebook()
    assert not is_attended()
    bar = progress_bar(range(3))
    assert bar.disable
    assert not isinstance(bar, tqdm_notebook)
    assert list(bar) == [0, 1, 2]
    assert terminal.getvalue() == ""


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
