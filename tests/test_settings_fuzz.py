"""Any text as a setting or a name: it means what it says, or one line says what is wrong."""

import json
import os
from fractions import Fraction

import hypothesis.strategies as st
import pytest
from damage import contents, examples
from hypothesis import given
from papermill.translators import PythonTranslator

from clothseg_utils.core import files
from clothseg_utils.core.config import (
    PATH_FIELDS,
    Config,
    apply_overrides,
    config_from_parameters,
    config_to_parameters,
    field_sections,
)
from clothseg_utils.core.files import resolve_path
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.workflow import pipeline, sweep

ODD = (
    *("", "..", ".", "/", "~", "~nobody9/x", "./~x", "../../etc", "a/../../b", "~/x", "a.", "-a"),
    *("\0", "a\0b", "\u202etxt", "\ud800", "\udcff", "a\nb", "\n", "\x1b[2J", " ", "\u2028"),
    *("nan", "inf", "-inf", "-0", "-0.0", "1e999", "1e-999", "٣", "１２", "1_000", "0x10", "−1"),
    *("7.0", "7.5", "1e3", "9" * 300, "1" + "0" * 400, "4294967296", "18446744073709551616"),
    *("x" * 300, "é" * 100, "𝔘" * 100, "衣" * 99, "true", "TRUE", "yes", "None", "0.5,1.5", ","),
    *('"', '"1,2"', "a=b", "--help", "imagenet", "none", "demo", "Demo", "sweeps"),
)
TEXTS = st.one_of(
    st.sampled_from(ODD),
    st.text(st.characters(), max_size=20),
    st.integers().map(str),
    st.floats().map(repr),
    st.integers(0, 200).map(lambda number: str(32 * number)),
    st.lists(st.sampled_from(ODD), min_size=2, max_size=3).map("".join),
)
SECTIONS = field_sections()
PATHS = sorted(PATH_FIELDS | {"encoder_weights"})


def meaning(text: str, kind: type) -> object:
    """What a text means as a setting of a type, by Python's own rules."""
    if kind is bool:
        return text.lower() in ("1", "true", "t", "yes", "y", "on")
    if kind is int:
        return Fraction(text)
    return kind(text)


@examples(250)
@given(st.sampled_from(sorted(SECTIONS)), TEXTS)
def test_a_setting_means_what_it_says_or_is_refused_by_name(field, text):
    refusal = None
    try:
        config = apply_overrides(Config(), [f"{SECTIONS[field]}.{field}={text}"])
    except ValueError as error:
        refusal = error
    if refusal is not None:
        assert not isinstance(refusal, UnicodeError)
        assert field in str(refusal) or "convert" in str(refusal)
        return
    parameters = config_to_parameters(config)
    assert parameters[field] == meaning(text.strip(), type(parameters[field]))
    assert Config.model_validate(json.loads(config.model_dump_json())) == config
    as_papermill: dict[str, object] = {}
    exec(PythonTranslator.codify(parameters), as_papermill)
    assert config_from_parameters(as_papermill) == config


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A repository, a home and a current folder, and what `run` would begin with."""
    for name in ("repo/outputs", "home", "here"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(files, "repo_root", lambda: tmp_path / "repo")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path / "here")
    begun = []

    def begin(config, only=(), **_):
        run = RunFolder(config.run.outputs_root, config.run.run_name)
        begun.append(config)
        return run

    def begin_sweep(name, planned, *_, **__):
        begun.extend(planned)
        raise ValueError("planned; expected no more here")

    monkeypatch.setattr(pipeline, "run_pipeline", begin)
    monkeypatch.setattr(sweep, "run_sweep", begin_sweep)
    return tmp_path, begun


@pytest.fixture
def say(cli, place):
    """Run a command; its exit code, with what it began."""
    folder, begun = place

    def call(*arguments: str):
        begun.clear()
        before = contents(folder)
        result = cli(*arguments)
        assert contents(folder) == before
        assert result.code in (0, 2)
        if result.code == 2:
            (line,) = result.err.splitlines()
            assert line.isprintable()
            assert line.startswith("error: ")
            assert "; " in line or "expected" in line
        return result.code, list(begun)

    return call


def test_a_path_means_what_the_shell_would_take_it_for(say):
    @examples(80)
    @given(st.sampled_from(PATHS), TEXTS)
    def check(field, text):
        code, begun = say("run", "--only", "01", "--set", f"{SECTIONS[field]}.{field}={text}")
        if code or not begun:
            return
        value, text = config_to_parameters(begun[0])[field], text.strip()
        if text == "" or (field == "encoder_weights" and text in ("imagenet", "none")):
            assert value == text
        else:
            wanted = os.path.realpath(os.path.expanduser(text))
            assert os.path.realpath(resolve_path(value)) == wanted

    check()


def test_a_run_name_is_a_folder_of_outputs_or_refused(say, place):
    outputs = place[0] / "repo" / "outputs"

    @examples(80)
    @given(TEXTS)
    def check(name):
        say("report", "--run-name", name)
        code, begun = say("run", "--only", "01", "--run-name", name)
        if code == 0 and begun:
            run = RunFolder(outputs, begun[0].run.run_name)
            run.report_dir.mkdir(parents=True)
            assert [path.name for path in outputs.iterdir()] == [name]
            run.report_dir.rmdir()
            run.path.rmdir()

    check()


def test_a_sweep_plans_every_value_or_refuses(say):
    @examples(60)
    @given(st.sampled_from(sorted(SECTIONS)), TEXTS, TEXTS, TEXTS)
    def check(field, one, other, name):
        say("sweep", "--set", one + other)
        say("sweep", "--set", "train.seed=0,1", "--name", name)
        _, planned = say("sweep", "--set", f"{SECTIONS[field]}.{field}={one},{other}")
        values = [config_to_parameters(run.config)[field] for run in planned]
        assert len(set(values)) == len({run.name for run in planned}) == len(planned)
        for run in planned:
            assert RunFolder("outputs", run.name).path.parent.name == "outputs"
        if values and field not in PATHS and not {",", '"'} & {*(one + other)}:
            wanted = [meaning(text.strip(), type(values[0])) for text in (one, other)]
            assert values == wanted

    check()


def test_other_words_of_the_command_line_are_refused_in_a_line(say):
    @examples(40)
    @given(TEXTS, TEXTS)
    def check(one, other):
        say("run", "--only", "01", "--profile", one)
        say("run", "--only", one)
        say("run", "--only", "01", "--data-root", one)
        say("report", one, other)
        say(one, other)

    check()
