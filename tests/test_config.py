"""Settings: profiles, overrides, errors that help, and the way to a notebook and back."""

from typing import get_args

import pytest
from pydantic import ValidationError

from clothseg_utils.core.config import (
    PATH_FIELDS,
    Config,
    InferenceConfig,
    Profile,
    apply_overrides,
    config_from_parameters,
    config_to_parameters,
    field_sections,
    profile_config,
    replace_fields,
)
from clothseg_utils.network.encoders import packaged_weights

PROFILES = get_args(Profile)


def test_there_are_five_profiles():
    assert PROFILES == ("demo", "laptop", "fashionpedia", "reported", "smoke")


def test_unknown_profile_is_refused():
    names = "demo, laptop, fashionpedia, reported, smoke"
    with pytest.raises(ValueError, match=f'unknown profile "fast"; expected one of {names}'):
        profile_config("fast")


def test_default_settings_are_profile_demo():
    """The parameters cells of the notebooks hold these literals."""
    assert profile_config("demo") == Config()


def test_profiles_write_to_folders_of_their_own():
    assert [profile_config(profile).run.run_name for profile in PROFILES] == list(PROFILES)


REPORTED = {  # the system as it was reported
    "data_root": "data/fashionpedia",
    "scheme": "supercategory",
    "image_size": 512,
    "train_size": 0,
    "resize": "squash",
    "image_limit": 0,
    "crop_scale_min": 0.8,
    "crop_scale_max": 1.0,
    "crop_ratio_min": 0.75,
    "crop_ratio_max": 1.33,
    "group_probability": 0.0,
    "flip_probability": 0.5,
    "rotation_degrees": 10.0,
    "translate_fraction": 0.1,
    "shear_degrees": 10.0,
    "jitter_strength": 0.2,
    "jitter_hue": 0.1,
    "grayscale_probability": 0.1,
    "dice_weight": 0.5,
    "focal_weight": 0.5,
    "dice_form": "smp",
    "focal_form": "sum",  # smp 0.5.0, with which it was trained
    "dice_smooth": 1.0,
    "focal_gamma": 2.0,  # the default of smp's FocalLoss
    "encoder_name": "mit_b1",
    "encoder_weights": "imagenet",
    "freeze_encoder": False,
    "prior_bias": False,  # the head begins at random
    "batch_size": 32,
    "accumulate": 1,
    "max_epochs": 15,
    "max_minutes": 0.0,  # epochs count, not the clock
    "checks_per_epoch": 10,  # val_check_interval 0.1
    "epoch_images": 0,  # every photo once
    "repeat_threshold": 0.0,  # all photos alike
    "learning_rate": 1e-4,
    "weight_decay": 0.0,  # Adam, not AdamW
    "adam_beta2": 0.999,  # torch's default
    "gradient_clip_norm": 0.0,  # no clipping
    "schedule": "constant",
    "warmup_fraction": 0.0,
    "patience": 6,
    "precision": "auto",  # is 16-mixed on a GPU
}


@pytest.mark.parametrize(("field", "value"), REPORTED.items())
def test_profile_reported_is_the_system_as_reported(field, value):
    assert config_to_parameters(profile_config("reported"))[field] == value


def test_profile_demo_trains_by_the_clock_from_installed_weights():
    """It is as long on any data, and needs neither network nor GPU."""
    config = profile_config("demo")
    assert config.train.max_minutes > 0
    assert config.train.encoder_weights == "imagenet"
    assert packaged_weights(config.train.encoder_name)
    assert config.data.data_root == "data/synthetic"


def test_field_names_are_unique_over_all_sections():
    """They are the parameter names of the notebooks, where there are no sections."""
    names = [name for info in Config.model_fields.values() for name in info.annotation.model_fields]
    assert len(names) == len(set(names))
    assert list(field_sections()) == names


def test_path_fields_are_fields():
    assert PATH_FIELDS.issubset(field_sections())


def test_settings_are_frozen():
    with pytest.raises(ValidationError, match="frozen"):
        Config().train.batch_size = 1


@pytest.mark.parametrize(
    ("override", "field", "value"),
    [
        ("train.batch_size=4", "batch_size", 4),
        ("train.learning_rate=3e-4", "learning_rate", 3e-4),
        ("train.freeze_encoder=true", "freeze_encoder", True),
        ("data.resize=squash", "resize", "squash"),
        (" data.image_size = 256 ", "image_size", 256),
        ("predict.photos_dir=my photos/a=b", "photos_dir", "my photos/a=b"),  # "=" in a value
        ("evaluate.checkpoint=", "checkpoint", ""),
    ],
)
def test_override_changes_one_field(override, field, value):
    before = config_to_parameters(Config())
    after = config_to_parameters(apply_overrides(Config(), [override]))
    assert after == before | {field: value}
    assert type(after[field]) is type(before[field])


def test_last_override_of_a_field_wins():
    config = apply_overrides(Config(), ["train.seed=1", "train.seed=2", "train.patience=9"])
    assert (config.train.seed, config.train.patience) == (2, 9)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.batch_size", r'"train.batch_size" has no "="; expected section.field=value'),
        ("data.batchsize=4", r'unknown field "data.batchsize".* mean train.batch_size\?'),
        ("batch_size=4", r'unknown field "batch_size".* mean train.batch_size\?'),
        ("=4", r'unknown field ""; expected one of run.run_name'),
        ("train.batch_size=four", r"train.batch_size: got 'four'; .*valid integer"),
        ("train.batch_size=0", r"train.batch_size: got '0'; .*greater than or equal to 1"),
        ("data.image_size=100", r"data.image_size: got '100'; .*multiple of 32"),
        ("data.resize=crop", r"data.resize: got 'crop'; .*'letterbox' or 'squash'"),
        ("train.max_minutes=nan", r"train.max_minutes: got 'nan'"),
        ("train.learning_rate=0", r"train.learning_rate: got '0'; .*greater than 0"),
        ("inference.tta_scales=big", r"tta_scales: got 'big'; .*separated by commas"),
        ("inference.tta_scales=0.5,1", r"tta_scales: .*different factors .*, without 1"),
        ("inference.tta_scales=9", r"tta_scales: .*factors from 0.25 to 4"),
        ("inference.tta_scales=nan", r"tta_scales: .*factors from 0.25 to 4"),
        ("inference.window_px=8", r"window_px: got '8'; expected 0 or at least 32 pixels"),
    ],
)
def test_bad_override_is_one_clear_line(override, message):
    with pytest.raises(ValueError, match=message) as caught:
        apply_overrides(Config(), [override])
    assert "\n" not in str(caught.value)


def test_unknown_field_lists_every_valid_one():
    with pytest.raises(ValueError, match="unknown field") as caught:
        apply_overrides(Config(), ["train.nonsense=1"])
    for field, section in field_sections().items():
        assert f"{section}.{field}" in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["augment.crop_scale_min=0.9", "augment.crop_scale_max=0.5"], "0.9 is above .* 0.5"),
        (["augment.crop_ratio_min=3"], "crop_ratio_min 3.0 is above crop_ratio_max 1.33"),
        (["loss.dice_weight=0", "loss.focal_weight=0"], "are 0; nothing would be learned"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, message):
    with pytest.raises(ValueError, match=message) as caught:
        apply_overrides(Config(), overrides)
    assert "\n" not in str(caught.value)


def test_several_faults_are_told_at_once():
    with pytest.raises(ValueError, match=r"train.batch_size: .*; train.seed: "):
        apply_overrides(Config(), ["train.batch_size=0", "train.seed=-1"])


def test_replace_fields_knows_its_fields():
    assert replace_fields(Config(), {"run_name": "mine"}).run.run_name == "mine"
    with pytest.raises(ValueError, match=r'unknown field "run"; expected one of run_name, '):
        replace_fields(Config(), {"run": "mine"})


def test_test_time_options_are_off_unless_asked_for():
    assert all(profile_config(profile).inference.is_plain for profile in PROFILES)
    config = apply_overrides(Config(), ["inference.tta_scales= 0.75, 1.25"])
    assert config.inference.scales == (1.0, 0.75, 1.25)
    assert config.inference.describe() == "input sizes × 1, 0.75, 1.25"
    assert not config.inference.is_plain


def test_input_sizes_are_multiples_of_32_largest_first():
    assert InferenceConfig().input_sizes(64) == [64]
    assert InferenceConfig(tta_scales="0.75,1.25").input_sizes(96) == [128, 96, 64]
    assert InferenceConfig(tta_scales="0.25,1.6").input_sizes(64) == [96, 64, 32]


@pytest.mark.parametrize(("scales", "side"), [("0.75,1.25", 64), ("0.5", 32), ("1.3,1.6", 64)])
def test_input_sizes_that_would_be_one_are_refused(scales, side):
    with pytest.raises(ValueError, match=f"tta_scales {scales} of image_size {side}: .*same"):
        InferenceConfig(tta_scales=scales).input_sizes(side)


def test_a_misspelt_field_in_json_is_refused():
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        Config.model_validate_json('{"train": {"batchsize": 4}}')


@pytest.mark.parametrize("profile", PROFILES)
def test_json_round_trip(profile):
    config = profile_config(profile)
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize("profile", PROFILES)
def test_parameters_round_trip(profile):
    """A notebook rebuilds from its variables the config that the pipeline flattened."""
    config = profile_config(profile)
    assert config_from_parameters(config_to_parameters(config)) == config


@pytest.mark.parametrize("profile", PROFILES)
def test_parameters_are_literals(profile):
    """Papermill turns tuples into strings and cannot pass a path."""
    types = {type(value) for value in config_to_parameters(profile_config(profile)).values()}
    assert types <= {str, int, float, bool}


def test_parameters_are_picked_out_of_a_notebooks_variables():
    namespace = {"image_size": 64, "__name__": "__main__", "plt": pytest, "image": None}
    config = config_from_parameters(namespace)
    assert config == replace_fields(Config(), {"image_size": 64})


def test_bad_parameter_is_named_with_its_field():
    with pytest.raises(ValueError, match=r"data.image_size: got 65; .*multiple of 32"):
        config_from_parameters({"image_size": 65})


# --- as papermill gives them ---------------------------------------------------------------------


def injected(source: str) -> dict:
    """A notebook's variables after papermill's cell, with the history that IPython keeps."""
    namespace: dict = {
        "_ih": ["", "import time", "image_size: int = 64", f"# Parameters\n{source}"]
    }
    exec(source, namespace)
    return namespace


def test_numbers_of_the_command_line_serve_as_texts():
    """`papermill -p run_name 2026 -p tta_scales 0.75` gives numbers."""
    config = config_from_parameters({"run_name": 2026, "tta_scales": 0.75})
    assert config.run.run_name == "2026"
    assert config.inference.scales == (1.0, 0.75)


def test_known_parameters_of_papermill_pass():
    config = config_from_parameters(
        injected('image_size = 32\nlearning_rate = 1.0\nscheme = "category"')
    )
    assert (config.data.image_size, config.train.learning_rate) == (32, 1.0)


def test_misspelt_parameter_of_papermill_is_an_error():
    with pytest.raises(
        ValueError,
        match=r'unknown parameter "batchsize" \(did you mean batch_size\?\); expected one',
    ):
        config_from_parameters(injected("image_size = 32\nbatchsize = 8"))
    with pytest.raises(ValueError, match=r'unknown parameter "zzz"; expected one of .*opacity\.$'):
        config_from_parameters(injected("zzz = 8"))


def test_other_variables_of_a_notebook_are_passed_over():
    namespace = {"batchsize": 8, "_ih": ["", "batchsize = 8"]}
    assert config_from_parameters(namespace) == Config()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"coco_file": "a.json"}, "convert: coco_file is set and coco_photos is not"),
        (
            {"coco_file": "a.json", "coco_photos": "a"},
            "convert: coco_file is set and data_root is still that of the drawn photos",
        ),
        ({"val_share": 1}, "convert.val_share: got 1; Input should be less than 1"),
    ],
)
def test_own_data_need_a_folder_and_a_place(values, message):
    with pytest.raises(ValueError, match=message):
        replace_fields(Config(), values)
