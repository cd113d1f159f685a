"""Tests of the command line: verbs, exit codes, and one line for a user's mistake."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
import typer
from PIL import Image

from clothseg_utils.__main__ import app
from clothseg_utils.core.files import repo_root
from clothseg_utils.core.runs import RunFolder, hold_folder
from clothseg_utils.data.coco import annotation_path
from clothseg_utils.data.download import Fetched
from clothseg_utils.workflow import pipeline, sweep
from clothseg_utils.workflow.pipeline import NotebookFailedError

VERBS = ["run", "synthesize", "download", "convert", "audit", "rasterize", "train", "evaluate"]
VERBS += ["predict", "join", "export", "report", "sweep"]
TRAIN_JSON = "instances_attributes_train2020.json"
VAL_JSON = "instances_attributes_val2020.json"


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch) -> Path:
    """A current folder of its own: relative paths of commands mean this one."""
    torch.set_num_threads(1)
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def only_error(result, code=2) -> str:
    """The one line on stderr of a command that failed."""
    assert result.code == code
    (line,) = result.err.splitlines()
    assert line.startswith("error: ")
    assert "Traceback" not in line
    return line


def next_command(lines: list[str]) -> str:
    """What the last lines say to type next, without the program."""
    *_, announcement, command = lines
    assert announcement.startswith("next:")
    words = shlex.split(command)
    assert words[1:3] == ["-m", "clothseg_utils"]
    assert (Path.cwd() / words[0]).exists() or words[0] == "python"
    return shlex.join(words[3:])


def write_own_data(folder: Path) -> None:
    """Three photos of a shop, a COCO file of other categories, and the classes of these."""
    (folder / "shop").mkdir()
    images, annotations = [], []
    for number in range(1, 4):
        Image.new("RGB", (20, 16), "white").save(folder / "shop" / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png"})
        square = [[2, 2, 8, 2, 8, 8, 2, 8]]
        annotations.append({"image_id": number, "category_id": 5, "segmentation": square})
    categories = [{"id": 5, "name": "T-shirt"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "shop.json").write_text(json.dumps(content))
    (folder / "classes.json").write_text('{"T-shirt": "upperbody"}')


# --- help and usage ------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_the_verbs(cli, arguments):
    result = cli(*arguments)
    assert (result.code, result.err) == (0, "")
    for verb in VERBS:
        assert f"  {verb} " in result.out, verb
    commands = result.out.partition("\nCommands:\n")[2]
    assert "..." not in commands  # every line is whole
    assert "    python -m clothseg_utils run --profile demo\n" in result.out


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(cli, verb):
    result = cli(verb, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: python -m clothseg_utils {verb} [OPTIONS]" in result.out
    examples = result.out.partition("\n  Examples:\n")[2]
    # Kept as they are, to be copied: no line is wrapped in the middle of an argument.
    assert examples.startswith(f"    python -m clothseg_utils {verb} ")
    assert max(map(len, result.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("trian", "No such command 'trian'"),
        ("run --profil demo", "No such option: --profil"),
        ("run --profile", "Option '--profile' requires an argument"),
        ("evaluate --data-root x --out y", "Missing option '--checkpoint'"),
        ("predict --checkpoint x --out y", "Missing argument 'PHOTO_OR_FOLDER...'"),
        ("synthesize --out x --train 0", "'--train': Input should be greater than or equal to 1"),
        ("rasterize --annotations x --out y --workers -1", "'--workers': Input should be greater"),
    ],
)
def test_usage_errors_are_one_line(cli, arguments, message):
    line = only_error(cli(*arguments.split()))
    assert message in line
    assert line.endswith("--help.")  # where the remedy stands


@pytest.mark.parametrize(
    ("arguments", "code", "out", "err"),
    [
        (["--help"], 0, "Usage: python -m clothseg_utils", ""),
        (["trian"], 2, "", "error: No such command 'trian'"),
    ],
)
def test_as_a_program(arguments, code, out, err):
    command = [sys.executable, "-m", "clothseg_utils", *arguments]
    child = subprocess.run(command, cwd=repo_root(), capture_output=True, text=True, timeout=60)
    assert child.returncode == code
    assert out in child.stdout
    assert child.stderr.startswith(err)
    assert len(child.stderr.splitlines()) == bool(err)


COMMANDS = typer.main.get_command(app).commands
GIVEN_ONCE = [
    (verb, option)
    for verb, command in COMMANDS.items()
    for option in command.params
    if option.param_type_name == "option" and not option.multiple
]


def test_every_verb_has_options_to_be_given_once():
    assert set(COMMANDS) == {verb for verb, _ in GIVEN_ONCE} == set(VERBS)


@pytest.mark.parametrize(
    ("verb", "option"), GIVEN_ONCE, ids=[f"{verb} {option.opts[0]}" for verb, option in GIVEN_ONCE]
)
def test_option_given_twice_is_refused(cli, here, verb, option):
    """Whatever else is missing or wrong: the last one would win in silence."""
    name = option.opts[0]
    twice = [name, name] if option.is_flag else [name, "1", f"{name}=2"]
    assert f"Option '{name}' is given 2 times, expected once; see" in only_error(cli(verb, *twice))
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("run --set train.seed=1 --set train.seed=2", "seed is given 2 times"),
        ("train --data-root x --run-name y --set run.run_name=z", "run_name is given 2 times"),
        ("sweep --set train.seed=1,2 --set train.seed=3", "train.seed is given twice"),
    ],
)
def test_setting_given_twice_is_refused(cli, here, arguments, message):
    assert message in only_error(cli(*arguments.split()))
    assert list(here.iterdir()) == []


# --- tab completion ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("clothseg sw", ["sweep"]),
        ("clothseg run --prof", ["--profile"]),
        ("clothseg run --profile d", ["demo"]),
        ("clothseg run --set train.see", ["train.seed="]),
        (
            "clothseg sweep --set loss.dice_",
            ["loss.dice_weight=", "loss.dice_form=", "loss.dice_smooth="],
        ),
        ("clothseg run --only 0", ["01", "02", "03", "04", "05"]),
        ("clothseg rasterize --scheme c", ["category"]),
        ("clothseg evaluate --split v", ["val"]),
        ("clothseg report --run-name m", ["mine"]),
    ],
)
def test_shell_completes(cli, monkeypatch, here, typed, expected):
    """As bash asks: the words so far, and which of them is being typed."""
    RunFolder(here.parent / "repo" / "outputs", "mine").update_step("03_training", {})
    monkeypatch.setenv("_CLOTHSEG_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split()) - 1))
    with pytest.raises(SystemExit) as caught:
        cli(program="/somewhere/bin/clothseg")
    assert caught.value.code == 0
    assert cli.read().out.split() == expected


@pytest.mark.parametrize(
    "program", ["/somewhere/bin/clothseg", "/somewhere/clothseg_utils/__main__.py"]
)
def test_completion_script_is_for_the_command_of_one_name(cli, monkeypatch, program):
    # Else it is the shell that started the tests, and `make test-fast` goes through sh.
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    with pytest.raises(SystemExit):
        cli("--show-completion", program=program)
    script = cli.read().out
    assert script.rstrip().endswith("complete -o default -F _clothseg_completion clothseg")
    check = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True)
    assert (check.returncode, check.stderr) == (0, "")


def test_command_of_one_name_is_the_same_program(cli):
    program = "/somewhere/bin/clothseg"
    result = cli("run", "--help", program=program)
    assert result.out.startswith("Usage: clothseg run [OPTIONS]")
    assert "see clothseg run --help." in only_error(cli("run", "--profil", program=program))
    result = cli("synthesize", "--out", "drawn", "--train", "1", "--val", "1", program=program)
    assert result.out.splitlines()[-1] == f"    {program} run --data-root drawn"
    scripts = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())
    assert scripts["project"]["scripts"] == {"clothseg": "clothseg_utils.__main__:run_program"}


# --- run -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            "--profile dmeo",
            'unknown profile "dmeo"; expected one of demo, laptop, fashionpedia, reported, smoke',
        ),
        (
            "--set train.batchsize=4",
            'unknown field "train.batchsize" (did you mean train.batch_size?); expected one of '
            "run.run_name, ",
        ),
        ("--set train.encoder_name=mit_b9", 'unknown encoder_name "mit_b9" (did you mean mit_b'),
        ("--data-root nowhere", "nowhere; expected a folder in Fashionpedia's layout"),
        ("--only 06", 'unknown notebook "06"; expected one of 01, 02, 03, 04, 05'),
        ("--run-name a/b", 'run_name "a/b" is not a folder name'),
    ],
)
def test_run_refuses_before_it_writes(cli, here, arguments, message):
    assert message in only_error(cli("run", *arguments.split()))
    assert list((here.parent / "repo").iterdir()) == []
    assert list(here.iterdir()) == []


@pytest.mark.parametrize("option", [["--data-root", "mine"], ["--set", "data.data_root=mine"]])
def test_relative_paths_mean_the_current_folder(cli, here, option):
    assert f"no such data root: {here / 'mine'};" in only_error(cli("run", *option))


def test_run_that_is_in_use(cli, here, synthetic_root):
    run = RunFolder(here.parent / "repo" / "outputs", "busy")
    with run.lock():
        line = only_error(cli("run", "--data-root", synthetic_root, "--run-name", "busy"))
    assert 'run "busy" is in use by process' in line


@pytest.mark.parametrize(("any_done", "code"), [(False, 2), (True, 1)])
def test_notebook_that_fails(cli, monkeypatch, any_done, code):
    def fail(*_, **__):
        raise NotebookFailedError("no luck\nin notebook 03", any_done=any_done)

    monkeypatch.setattr(pipeline, "run_pipeline", fail)
    assert only_error(cli("run"), code) == "error: no luck in notebook 03"


def test_interrupt_is_one_line(cli, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "run_pipeline", interrupt)
    line = only_error(cli("run"), code=130)
    assert "the same command goes on where it stopped" in line


def test_run_gets_profile_options_and_settings_in_this_order(cli, monkeypatch, here):
    seen = []

    def record(config, only, *, say):
        seen.append((config, list(only)))
        return RunFolder(config.run.outputs_root, config.run.run_name)

    monkeypatch.setattr(pipeline, "run_pipeline", record)
    settings = ["--set", "train.batch_size=5", "--set", "train.seed=5"]
    options = ["--profile", "smoke", "--run-name", "mine", "--only", "03", "--only", "04"]
    assert cli("run", *options, *settings).code == 0
    assert cli("run", "--data-root", here, "--set", "run.run_name=set").code == 0
    (first, first_only), (second, second_only) = seen
    assert (first.run.run_name, first.data.image_size, first.train.batch_size) == ("mine", 64, 5)
    assert first_only == ["03", "04"]
    assert (second.run.run_name, second.data.data_root) == ("set", here.as_posix())
    assert second_only == []


# --- the other verbs: bad input ------------------------------------------------------------------


@pytest.fixture
def bad_root(here) -> Path:
    """A data root whose annotation files are no JSON."""
    root = here / "bad"
    for folder, name in (("train", TRAIN_JSON), ("test", VAL_JSON)):
        (root / folder).mkdir(parents=True)
        (root / name).write_text("<html>not found</html>")
    return root


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("audit --annotations nowhere.json", "nowhere.json"),
        ("audit --annotations {bad}/" + VAL_JSON, f"{VAL_JSON} is not"),
        ("audit --annotations {good}/" + VAL_JSON + " --against {good}/train", "--images-dir too"),
        (
            "audit --annotations {good}/" + VAL_JSON + " --images-dir {good}/test --against {good}",
            "no photo in {good}",
        ),
        ("rasterize --annotations nowhere.json --out masks", "nowhere.json"),
        ("rasterize --annotations {bad}/" + VAL_JSON + " --out masks", f"{VAL_JSON} is not"),
        (
            "rasterize --annotations {good}/" + VAL_JSON + " --out masks --scheme colours",
            "'--scheme': 'colours' is not one of 'supercategory', 'category'; see",
        ),
        ("train --data-root nowhere --run-name x", "no such data root"),
        ("train --data-root {good}/train --run-name x", f"lacks {TRAIN_JSON}"),
        ("train --data-root {bad} --run-name x", f"{TRAIN_JSON} is not"),
        (
            "train --data-root {good} --run-name x --set train.encoder_weights=nowhere.pth",
            "nowhere.pth",
        ),
        ("train --data-root {good} --run-name x --set train.init_from=no.pt", "init_from is"),
        ("train --data-root {good} --run-name x --resume", "holds no training to go on with"),
        (
            "train --data-root {good} --run-name x --resume --set train.init_from=no.pt",
            "holds no training to go on with",
        ),
        ("evaluate --checkpoint nowhere.ckpt --data-root {good} --out x", "nowhere.ckpt"),
        ("evaluate --checkpoint {bad}/" + VAL_JSON + " --data-root {good} --out x", VAL_JSON),
        ("evaluate --checkpoint {best} --data-root nowhere --out x", "nowhere"),
        ("evaluate --checkpoint {best} --data-root {bad} --out x", f"{VAL_JSON} is not"),
        (
            "evaluate --checkpoint {best} --data-root {good} --out x --split dev",
            "'--split': 'dev' is not one of 'train', 'val', 'test'; see",
        ),
        (
            "evaluate --checkpoint {best} --data-root {good} --out x --split test",
            "has no test split; expected instances_attributes_test2020.json in it",
        ),
        ("predict --checkpoint nowhere.ckpt --out x {good}/test", "nowhere.ckpt"),
        ("predict --checkpoint {best} --out {bad}/" + VAL_JSON + " {good}/test", VAL_JSON),
        ("report --run-name nowhere", "nowhere"),
        ("report --run-name ../x", 'run_name "../x" is not a folder name'),
    ],
)
def test_bad_input_is_one_line(
    cli, here, bad_root, synthetic_root, tiny_training, arguments, message
):
    best = tiny_training.run.best_checkpoint
    filled = arguments.format(bad=bad_root, good=synthetic_root, best=best)
    assert message.format(good=synthetic_root) in only_error(cli(*filled.split()))
    assert [path.name for path in here.iterdir()] == ["bad"]  # nothing was written


# --- the other verbs: doing it -------------------------------------------------------------------


def test_synthesize(cli, here):
    result = cli("synthesize", "--out", "drawn", "--train", "2", "--val", "1", "--seed", "3")
    assert (result.code, result.err) == (0, "")
    first, *following = result.out.splitlines()
    assert first == "2 train and 1 val photos are in drawn"
    assert next_command(following) == "run --data-root drawn"
    assert len(list((here / "drawn" / "train").iterdir())) == 2
    assert len(json.loads((here / "drawn" / VAL_JSON).read_text())["images"]) == 1


def test_audit(cli, here, synthetic_root):
    options = ["--annotations", synthetic_root / VAL_JSON, "--images-dir", synthetic_root / "test"]
    against = ["--against", synthetic_root / "train"]
    result = cli("audit", *options, *against, "--json", "audit.json")
    assert (result.code, result.err) == (0, "")
    assert "8" in result.out
    assert "near_equal 0" in result.out
    findings = json.loads((here / "audit.json").read_text())
    assert (findings["n_images"], findings["excluded"]) == (8, {})


def test_rasterize_leaves_masks_and_index_only(cli, here, synthetic_root):
    options = ["--annotations", synthetic_root / VAL_JSON, "--workers", "1"]
    result = cli("rasterize", *options, "--out", "masks")
    assert (result.code, result.err) == (0, "")
    assert result.out == "8 masks are in masks; class names in masks/index.json\n"
    stems = {path.stem for path in (synthetic_root / "test").iterdir()}
    names = {path.name for path in (here / "masks").iterdir()}
    assert names == {f"{stem}.png" for stem in stems} | {"index.json"}


@pytest.mark.slow
def test_train_and_resume(cli, here, synthetic_root, monkeypatch):
    options = "--profile smoke --set train.max_epochs=1 --set data.image_limit=4"
    options += " --set data.image_size=32 --set data.mask_workers=1"
    command = ["train", "--data-root", synthetic_root, "--run-name", "mine", *options.split()]
    result = cli(*command)
    assert (result.code, result.err) == (0, "")
    closing = result.out.splitlines()[-3]
    folder = here.parent / "repo" / "outputs" / "mine"
    checkpoints = folder / "checkpoints"
    assert closing.startswith("val mIoU 0.")
    # The current folder is another one, so the path that is shown is the whole one.
    assert closing.endswith(
        f"after 1 epoch (epoch 1, its last, was done): {checkpoints / 'best.ckpt'}"
    )
    assert next_command(result.out.splitlines()[-2:]) == (
        f"evaluate --checkpoint {checkpoints / 'best.ckpt'} --data-root {synthetic_root} "
        f"--out {folder}"
    )
    written = (checkpoints / "best.ckpt").stat().st_mtime_ns

    refused = cli(*command)
    assert (refused.code, refused.out) == (2, "")
    assert "--resume" in refused.err
    assert "--run-name" in refused.err
    assert (checkpoints / "best.ckpt").stat().st_mtime_ns == written

    again = cli(*command, "--resume")
    assert (again.code, again.out.splitlines()[-3]) == (0, closing)
    assert (checkpoints / "best.ckpt").stat().st_mtime_ns == written


@pytest.mark.parametrize(
    ("verb", "profile"), [("train", "fashionpedia"), ("run", "fashionpedia"), ("run", "reported")]
)
def test_days_of_work_on_a_cpu_are_asked_for(cli, here, monkeypatch, verb, profile):
    monkeypatch.setattr("torch.accelerator.is_available", lambda: False)
    command = [verb, "--profile", profile, "--data-root", here / "none", "--run-name", "x"]
    result = cli(*command)
    assert (result.code, result.out) == (2, "")
    assert "--on-cpu" in result.err
    # The next thing that is missing.
    assert "no such data root" in cli(*command, "--on-cpu").err


# --- own data ------------------------------------------------------------------------------------


def test_convert(cli, here):
    write_own_data(here)
    command = ["convert", "--photos", "shop", "--annotations", "shop.json", "--out", "new set"]
    result = cli(*command, "--classes", "classes.json")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("new set: 2 train and 1 val photos, 3 annotations in 1 category\n")
    command = "run --profile laptop --data-root 'new set' --run-name new_set"
    assert next_command(result.out.splitlines()) == command
    assert (here / "new set" / VAL_JSON).is_file()


def test_convert_without_classes_takes_each_category_for_one(cli, here):
    write_own_data(here)
    result = cli("convert", "--photos", "shop", "--annotations", "shop.json", "--out", "new")
    assert "each category is a class of its own" in result.out
    command = "run --profile laptop --data-root new --run-name new --set data.scheme=category"
    assert next_command(result.out.splitlines()) == command


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--photos nowhere --annotations shop.json --out new", "photo folder nowhere not found"),
        (
            "--photos shop --annotations shop.json --out shop",
            "shop lies in shop, the folder to make",
        ),
    ],
)
def test_bad_own_data_are_one_line(cli, here, arguments, message):
    write_own_data(here)
    assert message in only_error(cli("convert", *arguments.split()))
    assert not (here / "new").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            ["convert.coco_file=shop.json", "convert.coco_photos=shop"],
            "convert: coco_file is set and data_root is still that of the drawn photos",
        ),
        (
            ["convert.coco_file=x.json", "convert.coco_photos=shop", "data.data_root=new"],
            "x.json not found; expected a COCO JSON",
        ),
    ],
)
def test_run_on_own_data_that_are_not_there(cli, here, settings, message):
    write_own_data(here)
    options = [part for setting in settings for part in ("--set", setting)]
    assert message in only_error(cli("run", *options))


# --- sweep ---------------------------------------------------------------------------------------


@pytest.fixture
def pipeline_of(monkeypatch):
    """A pipeline in which the runs of some seeds fail."""

    def replace(broken: dict[int, Exception]) -> None:
        def run(config, only, *, say, sibling):
            if config.train.seed in broken:
                raise broken[config.train.seed]
            folder = RunFolder(config.run.outputs_root, config.run.run_name)
            folder.path.mkdir(parents=True)
            return folder

        monkeypatch.setattr(sweep, "run_pipeline", run)

    return replace


@pytest.mark.parametrize(
    ("broken", "code"),
    [
        ({}, 0),
        ({1: ValueError("no luck")}, 1),
        ({0: ValueError("no luck"), 1: ValueError("no luck")}, 2),
        (
            {0: NotebookFailedError("no luck", any_done=True), 1: ValueError("no luck")},
            1,  # a notebook of the first run is done
        ),
    ],
)
def test_sweep_exit_codes(cli, here, pipeline_of, broken, code):
    pipeline_of(broken)
    result = cli("sweep", "--set", "train.seed=0,1", "--name", "s")
    folder = here.parent / "repo" / "outputs" / "sweeps" / "s"
    assert result.code == code
    assert result.err.splitlines() == [f"error: run s-seed={seed}: no luck" for seed in broken]
    assert f"{2 - len(broken)} of 2 runs are done" in result.out
    leaderboard = f"leaderboard: {folder / 'leaderboard.html'} (for a browser), "
    assert leaderboard + f"{folder / 'leaderboard.csv'}" in result.out
    assert (folder / "leaderboard.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("", "Missing option '--set'"),
        ("--set train.seed=0", "no setting has several values"),
        ("--set train.seed=0,1 --data-root nowhere", "no such data root"),
        ("--set train.seed=0,1 --name a/b", "is not a folder name"),
    ],
)
def test_sweep_refuses_before_it_writes(cli, here, arguments, message):
    assert message in only_error(cli("sweep", *arguments.split()))
    assert list((here.parent / "repo").iterdir()) == []


def test_second_process_at_a_sweep_is_told(cli, here, pipeline_of):
    """The record of one would replace that of the other."""
    pipeline_of({})
    folder = here.parent / "repo" / "outputs" / "sweeps" / "s"
    with hold_folder(folder, "sweep", "a sweep", "--name"):
        line = only_error(cli("sweep", "--set", "train.seed=0,1", "--name", "s"))
        assert f'sweep "s" is in use by process {os.getpid()}' in line
        assert cli("sweep", "--set", "train.seed=0,1", "--name", "other").code == 0
    assert cli("sweep", "--set", "train.seed=0,1", "--name", "s").code == 0


def test_scores_on_other_data_are_not_put_into_a_run(
    cli, tiny_training, synthetic_root, tmp_path, monkeypatch
):
    """Its report would tell of both as if they were one."""
    run = RunFolder(tmp_path, "r")
    run.record_step("03_training", parameters={"data_root": "other"}, seconds=1)
    evaluate = ("evaluate", "--checkpoint", tiny_training.run.best_checkpoint)
    evaluate = (*evaluate, "--data-root", synthetic_root, "--out")
    line = only_error(cli(*evaluate, run.path))
    assert "run r is of the data in other; got " in line
    assert "or another --out" in line
    monkeypatch.chdir(tmp_path)  # a relative one means the current folder
    assert "run r is of the data in other" in only_error(cli(*evaluate, "r"))
    assert not run.evaluation_dir.exists()
    assert cli(*evaluate, "scores of mine").code == 0  # no run, whatever its name


def test_findings_do_not_replace_the_annotations(cli, synthetic_root, tmp_path):
    path = tmp_path / "a.json"
    shutil.copy(annotation_path(synthetic_root, "val"), path)
    before = path.read_bytes()
    (tmp_path / "link.json").symlink_to(path)
    for name in ("a.json", "link.json"):
        line = only_error(cli("audit", "--annotations", path, "--json", tmp_path / name))
        assert "is the annotation file; expected another one" in line
    assert path.read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="it takes pipes that have a name")
def test_pipe_is_no_checkpoint_to_wait_for(cli, tmp_path):
    os.mkfifo(tmp_path / "a.ckpt")
    Image.new("RGB", (2, 2)).save(tmp_path / "a.jpg")
    pipe = ("--checkpoint", tmp_path / "a.ckpt")
    for command in (("predict", *pipe, "--out", "o", tmp_path / "a.jpg"), ("export", *pipe)):
        assert "no such file" in only_error(cli(*command))


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_stop_nothing(synthetic_root, tmp_path, closed):
    """As daemons and batch systems start programs."""
    annotations = annotation_path(synthetic_root, "val")
    words = ["rasterize", "--annotations", annotations, "--out", tmp_path / "m", "--workers", "1"]
    command = shlex.join(map(str, [sys.executable, "-m", "clothseg_utils", *words]))
    child = subprocess.run(
        ["bash", "-c", f"{command} {closed}"], cwd=repo_root(), capture_output=True, text=True
    )
    assert (child.returncode, child.stderr) == (0, "")
    assert (tmp_path / "m" / "index.json").is_file()


def test_download_takes_checksums_and_says_what_was_found_there(cli, monkeypatch, tmp_path):
    asked = {}

    def fetch(data_root, *, sha256):
        asked.update(sha256)
        fetched = Fetched("a.json", "https://a", 1, "0" * 64, was_there=False)
        return [fetched, Fetched("b.zip", "", 0, "", was_there=True)]

    monkeypatch.setattr("clothseg_utils.data.download.download", fetch)
    digests = {"a.json": "0" * 64, "b.zip": "f" * 64}
    options = [word for name, hex in digests.items() for word in ("--sha256", f"{name}={hex}")]
    result = cli("download", "--data-root", tmp_path, *options)
    assert (result.code, asked) == (0, digests)
    assert "found there, not fetched: b.zip" in result.out.splitlines()


def test_what_a_terminal_would_obey_is_escaped(cli, tmp_path):
    result = cli("audit", "--annotations", tmp_path / "\x1b[31mred\u202e.json")
    assert result.code == 2
    assert "\\x1b[31mred\\u202e.json" in result.err
    assert "\x1b" not in result.err
