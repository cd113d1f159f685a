"""Settings of a run: one frozen model per section, five profiles, JSON in and out.

Field names are unique over all sections: they are also the notebooks' parameter names. Profiles
differ only in values, never in which code runs.
"""

import ast
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from clothseg_utils.core.classes import Scheme
from clothseg_utils.core.text import is_writable, suggestion

Profile = Literal["demo", "laptop", "fashionpedia", "reported", "smoke"]
Resize = Literal["letterbox", "squash"]
DiceForm = Literal["smp", "present"]
FocalForm = Literal["mean", "sum", "softmax"]
Schedule = Literal["constant", "cosine"]
Precision = Literal["auto", "32-true", "16-mixed", "bf16-mixed"]

_Fraction = Annotated[float, Field(ge=0, le=1)]
_Positive = Annotated[float, Field(gt=0)]
_NotNegative = Annotated[float, Field(ge=0)]
# Larger numbers are typing mistakes, which libraries meet late, each in its own words.
_MOST = 2**31 - 1
_Count = Annotated[int, Field(ge=1, le=_MOST)]
_CountOrZero = Annotated[int, Field(ge=0, le=_MOST)]
_Processes = Annotated[int, Field(ge=0, le=1024)]
_Seed = Annotated[int, Field(ge=0, lt=2**32)]  # as NumPy and Lightning take it
_LARGEST_SIDE = 2**15 - 32  # OpenCV scales no picture to a side of 2**15
_Side = Annotated[int, Field(le=_LARGEST_SIDE, multiple_of=32)]
_Folder = Annotated[str, Field(min_length=1)]
_Resamples = Annotated[int, Field(ge=100, le=10**6)]

_SMALLEST_WINDOW_PX = 32
_SCALE_LIMITS = (0.25, 4.0)


class _Section(BaseModel):
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,  # `papermill -p devices 2` gives a number
    )

    @field_validator("*")
    @classmethod
    def _check_text(cls, value: Any) -> Any:
        """Refuse text that neither a path nor a file in UTF-8 can hold."""
        if isinstance(value, str) and not is_writable(value):
            raise ValueError(
                "expected text in Unicode, without NUL; give another one, or rename the file"
            )
        return value


class RunConfig(_Section):
    """Where a run leaves its files."""

    run_name: str = "demo"  # folder under outputs_root
    outputs_root: _Folder = "outputs"  # folder of all runs


class DataConfig(_Section):
    """Which photos, which classes, and how a photo becomes a square."""

    data_root: _Folder = "data/synthetic"  # dataset in Fashionpedia's layout
    derived_root: _Folder = "data/derived"  # folder for masks made from it
    scheme: Scheme = "supercategory"
    image_size: Annotated[_Side, Field(ge=32)] = 256  # network input side, pixels
    train_size: Annotated[_Side, Field(ge=0)] = 128  # in training; 0 means image_size
    resize: Resize = "letterbox"  # letterbox keeps the aspect ratio, squash does not
    image_limit: _CountOrZero = 0  # photos of each split to use; 0 means all
    mask_workers: _Processes = 0  # processes that make masks; 0 means one per CPU core

    @property
    def input_size(self) -> int:
        """Side of the square that a training sample fills, pixels."""
        return self.train_size or self.image_size


class ConvertConfig(_Section):
    """Own photos with one COCO file, from which `data_root` is made; `convert` can do more."""

    coco_file: str = ""  # annotations; empty means that data_root is there already
    coco_photos: str = ""  # folder of the photos that coco_file names
    coco_classes: str = ""  # JSON, category -> class or null; empty takes what the file says
    val_share: Annotated[float, Field(gt=0, lt=1)] = 0.2  # share of the photos to validate on


class AugmentConfig(_Section):
    """Random changes to training photos; zeros (and scale 1) switch each of them off."""

    crop_scale_min: Annotated[float, Field(gt=0, le=9)] = 0.1  # smallest crop, share of the area
    crop_scale_max: Annotated[float, Field(gt=0, le=9)] = 0.9  # largest; above 1 photos shrink
    crop_ratio_min: _Positive = 0.75  # narrowest crop, width over height
    crop_ratio_max: _Positive = 1.33  # widest crop, width over height
    group_probability: _Fraction = 0.0  # made one with one to three other photos
    flip_probability: _Fraction = 0.5  # mirrored left to right
    rotation_degrees: Annotated[float, Field(ge=0, le=180)] = 0.0  # up to, both ways
    translate_fraction: _Fraction = 0.0  # up to, share of the side, both ways
    shear_degrees: Annotated[float, Field(ge=0, lt=90)] = 0.0  # up to, both ways
    jitter_strength: _Fraction = 0.1  # brightness, contrast, saturation: 1 minus to 1 plus this
    jitter_hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0  # share of the colour circle
    grayscale_probability: _Fraction = 0.0  # colour taken away
    pipeline_file: str = ""  # YAML or JSON that albumentations saved, instead of all these

    @model_validator(mode="after")
    def _check_order(self) -> Self:
        for name in ("crop_scale", "crop_ratio"):
            low, high = getattr(self, f"{name}_min"), getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(f"{name}_min {low} is above {name}_max {high}")
        return self

    def describe(self) -> str:
        """The changes that are on, in words.

        Example:
            >>> AugmentConfig(crop_scale_min=0.2, crop_scale_max=1.5, jitter_strength=0).describe()
            'cropped to 20 % to 150 % of the area; mirrored in 50 % of cases'
        """
        if self.pipeline_file:
            return f"the pipeline of {self.pipeline_file}"
        low, high = self.crop_scale_min, self.crop_scale_max
        parts = {
            f"cropped to {low:.0%} to {high:.0%} of the area": (low, high) != (1, 1),
            f"a group of two to four in {self.group_probability:.0%} of cases": (
                self.group_probability
            ),
            f"mirrored in {self.flip_probability:.0%} of cases": self.flip_probability,
            f"turned by up to {self.rotation_degrees:g}°": self.rotation_degrees,
            f"shifted by up to {self.translate_fraction:.0%} of the side": self.translate_fraction,
            f"sheared by up to {self.shear_degrees:g}°": self.shear_degrees,
            f"brightness, contrast and saturation by up to {self.jitter_strength:.0%}": (
                self.jitter_strength
            ),
            f"hue by up to {self.jitter_hue:.0%} of the colour circle": self.jitter_hue,
            f"grey in {self.grayscale_probability:.0%} of cases": self.grayscale_probability,
        }
        return (
            "; ".join(text for text, is_on in parts.items() if is_on).replace("%", " %") or "none"
        )


class LossConfig(_Section):
    """Dice + Focal. Source of the forms: segmentation-models-pytorch."""

    dice_weight: _NotNegative = 0.5
    focal_weight: _NotNegative = 5.0
    dice_form: DiceForm = "present"  # smp divides by all classes, present by those in the batch
    focal_form: FocalForm = "mean"  # sigmoids, mean or sum over classes; or softmax
    dice_smooth: _NotNegative = 1.0  # pixels added to both sides of the Dice ratio
    focal_gamma: _NotNegative = 2.0  # 0 turns focal loss into cross-entropy
    lovasz_weight: _NotNegative = 0.0  # of the Jaccard index as a loss; 0 does without

    @model_validator(mode="after")
    def _check_sum(self) -> Self:
        if self.dice_weight + self.focal_weight + self.lovasz_weight == 0:
            raise ValueError("the weights of all parts are 0; nothing would be learned")
        return self


class TrainConfig(_Section):
    """Network, optimisation and hardware."""

    encoder_name: str = "tu-tf_efficientnet_lite0"  # of smp, or tu- and a name of timm
    encoder_weights: str = "imagenet"  # imagenet, none, or a file with the encoder's state dict
    init_from: str = ""  # checkpoint or state dict to begin with, before encoder_weights
    freeze_encoder: bool = False  # train the decoder only
    compile_network: bool = False  # torch.compile: training starts minutes later
    prior_bias: bool = True  # begin by predicting each class as often as it occurs
    batch_size: _Count = 8  # photos at once on each device
    accumulate: _Count = 1  # batches whose gradients make one step
    max_epochs: _Count = 15  # used while max_minutes is 0
    max_minutes: _NotNegative = 4.5  # above 0: train and validate this long, whatever the epochs
    checks_per_epoch: _Count = 1  # times that val is scored
    epoch_images: _CountOrZero = 640  # photos drawn per epoch; 0 means each one once
    repeat_threshold: _Fraction = 0.0  # photos of classes in less than this share come more often
    learning_rate: _Positive = 2e-3
    weight_decay: _NotNegative = 0.01  # AdamW; at 0 it is Adam
    adam_beta2: Annotated[float, Field(gt=0, lt=1)] = 0.95  # memory of Adam's second moment
    gradient_clip_norm: _NotNegative = 1.0  # longest gradient; 0 does not clip
    schedule: Schedule = "cosine"  # learning rate after the warm-up
    warmup_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.05  # share of training, linear
    patience: _Count = 6  # checks without a better val mIoU before stopping; not with max_minutes
    seed: _Seed = 0
    num_workers: _Processes = 0  # processes that load photos; 0 loads in the main process
    devices: _Count = 1  # GPUs, or processes where a CPU trains
    precision: Precision = "auto"  # 16-mixed on CUDA, bf16-mixed on CPUs that have it, else 32


class EvaluateConfig(_Section):
    """Scores on the val split."""

    checkpoint: str = ""  # file to evaluate; empty means the run's best
    bootstrap_samples: _Resamples = 2000  # resamples behind each interval
    trial_photos: _CountOrZero = 6  # val photos to try test-time options on; 0 tries none


class InferenceConfig(_Section):
    """Test-time options: more looks at each photo for a better mask; all off by default."""

    tta_flip: bool = False  # average with the mirrored photo
    tta_scales: str = ""  # further input sizes, such as 0.5,1.5 of image_size; empty means none
    window_px: _CountOrZero = 0  # side of windows slid over larger photos, pixels; 0 means none

    @field_validator("tta_scales")
    @classmethod
    def _check_scales(cls, text: str) -> str:
        _parse_scales(text)
        return text

    @field_validator("window_px")
    @classmethod
    def _check_window(cls, window_px: int) -> int:
        if 0 < window_px < _SMALLEST_WINDOW_PX:
            raise ValueError(f"expected 0 or at least {_SMALLEST_WINDOW_PX} pixels")
        return window_px

    @property
    def scales(self) -> tuple[float, ...]:
        """Input sizes as factors of `image_size`; the plain one first."""
        return (1.0, *_parse_scales(self.tta_scales))

    def input_sizes(self, image_size: int) -> list[int]:
        """Sides of the square inputs, pixels, largest first: multiples of 32 nearest the factors.

        Raises:
            ValueError: two factors come to the same side.
        """
        sizes = {max(32, 32 * round(image_size * scale / 32)) for scale in self.scales}
        if len(sizes) < len(self.scales):
            raise ValueError(
                f"inference.tta_scales {self.tta_scales} of image_size {image_size}: factors come "
                "to the same input size, a multiple of 32 pixels; expected one size each. Choose "
                f"factors further apart, such as {32 / image_size + 1:g}."
            )
        return sorted(sizes, reverse=True)

    @property
    def is_plain(self) -> bool:
        """Whether each photo is looked at once, as a whole."""
        return self == InferenceConfig()

    def describe(self) -> str:
        """The options in words.

        Example:
            >>> InferenceConfig(tta_flip=True, window_px=512).describe()
            'mirrored too; windows of 512 px over larger photos'
        """
        parts = ["mirrored too"] * self.tta_flip
        if self.tta_scales:
            parts.append("input sizes × " + ", ".join(f"{scale:.3g}" for scale in self.scales))
        if self.window_px:
            parts.append(f"windows of {self.window_px} px over larger photos")
        return "; ".join(parts) or "none"


PLAIN_INFERENCE = InferenceConfig()
"""No test-time options: each photo is looked at once, as a whole."""


def _parse_scales(text: str) -> tuple[float, ...]:
    """Read "0.5, 1.5"; refuse what is no list of different factors other than 1."""
    try:
        scales = tuple(float(part) for part in text.split(",")) if text.strip() else ()
    except ValueError:
        raise ValueError('expected factors separated by commas, such as "0.5,1.5"') from None
    low, high = _SCALE_LIMITS
    if len({*scales, 1.0}) <= len(scales) or not all(low <= scale <= high for scale in scales):
        raise ValueError(f"expected different factors from {low:g} to {high:g}, without 1")
    return scales


class PredictConfig(_Section):
    """Overlays."""

    photos_dir: str = ""  # folder of own photos to predict; empty means none
    overlay_count: _Count = 3  # photos in each gallery of overlays
    overlay_opacity: _Fraction = 0.55  # of the class colour over the photo


class Config(_Section):
    """Everything that a run depends on."""

    run: RunConfig = RunConfig()
    data: DataConfig = DataConfig()
    convert: ConvertConfig = ConvertConfig()
    augment: AugmentConfig = AugmentConfig()
    loss: LossConfig = LossConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    inference: InferenceConfig = PLAIN_INFERENCE
    predict: PredictConfig = PredictConfig()

    @model_validator(mode="after")
    def _check_own_data(self) -> Self:
        if self.convert.coco_file:
            if not self.convert.coco_photos:
                raise ValueError("coco_file is set and coco_photos is not; set that folder too")
            if self.data.data_root == DataConfig().data_root:
                raise ValueError(
                    "coco_file is set and data_root is still that of the drawn photos; set "
                    "data_root to a new folder"
                )
        return self


PATH_FIELDS = frozenset(
    {
        "outputs_root",
        "data_root",
        "derived_root",
        "coco_file",
        "coco_photos",
        "coco_classes",
        "pipeline_file",
        "init_from",
        "checkpoint",
        "photos_dir",
    }
)
"""Fields that hold a path; relative means the repository root, empty means none.
`encoder_weights` is one too, unless it says "imagenet" or "none"."""

_PROFILES: dict[Profile, dict[str, dict[str, Any]]] = {
    # The defaults above: minutes on two CPU cores, on drawn photos. Crops of a photo are learned
    # small, whole photos are predicted larger: garments have about the same size in both. Much
    # larger serves groups of people, small crops serve photos that cut people in half.
    "demo": {},
    # Real photos without a GPU: an hour on two cores.
    "laptop": {
        "run": {"run_name": "laptop"},
        "data": {"data_root": "data/fashionpedia", "image_size": 288, "train_size": 192},
        "augment": {"crop_scale_min": 0.2, "crop_scale_max": 1.2, "group_probability": 0.1},
        "train": {"max_minutes": 60.0, "epoch_images": 3200, "repeat_threshold": 0.3},
    },
    # For one GPU and one night; goal 0.60 on Fashionpedia val. It was never run: its values are
    # those of `laptop` where CPUs could try them (benchmarks/RECIPE.md), else what others found.
    "fashionpedia": {
        "run": {"run_name": "fashionpedia"},
        # The aspect ratio kept: +0.7 mIoU on ADE20K (mmsegmentation, SegFormer's README).
        "data": {"data_root": "data/fashionpedia", "image_size": 512, "train_size": 0},
        "augment": {
            "crop_scale_min": 0.2,
            "crop_scale_max": 1.2,
            "group_probability": 0.1,
            "jitter_strength": 0.2,
        },
        "train": {
            "encoder_name": "mit_b1",
            "batch_size": 32,
            # Three times as long took Mask R-CNN on Fashionpedia from 34.3 to 39.2 AP (tensorflow/
            # tpu, projects/fashionpedia); 40 epochs are six hours at 80 photos a second.
            "max_epochs": 40,
            "max_minutes": 0.0,
            "patience": 40,  # the rate falls to the end: nothing is to be stopped before
            "epoch_images": 0,
            # SegFormer's optimizer: AdamW, warm-up, 6e-5 and ten times that in the decoder
            # (Xie et al. 2021); between the two, as one rate trains both.
            "learning_rate": 2e-4,
            "adam_beta2": 0.999,
            "num_workers": 8,
        },
    },
    # The earlier system as it was reported, except for its two defects: checkpoint and early
    # stopping watch one quantity (val mIoU), and what lies outside the photo is ignored.
    "reported": {
        "run": {"run_name": "reported"},
        "data": {
            "data_root": "data/fashionpedia",
            "image_size": 512,
            "train_size": 0,
            "resize": "squash",
        },
        "augment": {
            "crop_scale_min": 0.8,
            "crop_scale_max": 1.0,
            "jitter_strength": 0.2,
            "rotation_degrees": 10.0,
            "translate_fraction": 0.1,
            "shear_degrees": 10.0,
            "jitter_hue": 0.1,
            "grayscale_probability": 0.1,
        },
        # It was trained with segmentation-models-pytorch 0.5.0, whose focal loss sums over classes.
        "loss": {"focal_weight": 0.5, "dice_form": "smp", "focal_form": "sum"},
        "train": {
            "encoder_name": "mit_b1",
            "prior_bias": False,
            "batch_size": 32,
            "max_epochs": 15,
            "max_minutes": 0.0,
            "checks_per_epoch": 10,
            "epoch_images": 0,
            "learning_rate": 1e-4,
            "weight_decay": 0.0,
            "adam_beta2": 0.999,
            "gradient_clip_norm": 0.0,
            "schedule": "constant",
            "warmup_fraction": 0.0,
            "num_workers": 8,
        },
    },
    # Every line of code in seconds, for tests; the scores mean nothing.
    "smoke": {
        "run": {"run_name": "smoke"},
        "data": {"image_size": 64, "train_size": 0, "resize": "squash", "image_limit": 12},
        "augment": {"crop_scale_min": 1.0, "crop_scale_max": 1.0},
        "train": {
            "encoder_name": "mit_b0",
            "encoder_weights": "none",
            "batch_size": 4,
            "learning_rate": 1e-3,
            "max_epochs": 2,
            "max_minutes": 0.0,
            "epoch_images": 0,
        },
        "evaluate": {"bootstrap_samples": 200, "trial_photos": 2},
        "predict": {"overlay_count": 2},
    },
}

PROFILE_NAMES: tuple[str, ...] = get_args(Profile)
"""Names of the profiles."""


def profile_config(profile: Profile) -> Config:
    """Settings of a profile.

    Raises:
        ValueError: unknown profile.

    Example:
        >>> profile_config("reported").train.batch_size
        32
    """
    if profile not in _PROFILES:
        raise ValueError(
            f'unknown profile "{profile}"; expected one of {", ".join(get_args(Profile))}.'
        )
    return Config.model_validate(_PROFILES[profile])


def field_sections() -> dict[str, str]:
    """Map each field name to its section, in order.

    Example:
        >>> field_sections()["batch_size"]
        'train'
    """
    return {
        field: section
        for section, info in Config.model_fields.items()
        for field in info.annotation.model_fields  # type: ignore[union-attr]  # all are sections
    }


def apply_overrides(config: Config, overrides: Iterable[str]) -> Config:
    """Apply `section.field=value` settings; the last one of a field wins.

    Raises:
        ValueError: not of that form, an unknown field (the valid ones are listed), or a bad value.

    Example:
        >>> apply_overrides(Config(), ["train.batch_size=4"]).train.batch_size
        4
    """
    sections = field_sections()
    valid = [f"{section}.{field}" for field, section in sections.items()]
    values: dict[str, Any] = {}
    for override in overrides:
        name, equals, value = override.partition("=")
        name = name.strip()
        if not equals:
            raise ValueError(f'--set "{override}" has no "="; expected section.field=value.')
        if name not in valid:
            raise ValueError(
                f'unknown field "{name}"{suggestion(name, valid)}; expected one of '
                f"{', '.join(valid)}."
            )
        values[name.partition(".")[2]] = value.strip()
    return replace_fields(config, values)


def replace_fields(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a config with some fields replaced, checked like any other.

    Args:
        config: the settings to start from; unchanged.
        values: field name -> value.

    Raises:
        ValueError: an unknown field or a bad value.
    """
    sections = field_sections()
    tree = config.model_dump()
    for field, value in values.items():
        if field not in sections:
            raise ValueError(f'unknown field "{field}"; expected one of {", ".join(sections)}.')
        tree[sections[field]][field] = value
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        problems = []
        for problem in error.errors():
            # A check over several sections has no place of its own; there is one, on own data.
            where = ".".join(str(part) for part in problem["loc"]) or "convert"
            got = "" if isinstance(problem["input"], dict) else f" got {problem['input']!r};"
            problems.append(f"{where}:{got} {problem['msg'].removeprefix('Value error, ')}")
        raise ValueError("bad setting " + "; ".join(problems) + ".") from None


def config_to_parameters(config: Config) -> dict[str, Any]:
    """Flatten to field name -> literal: what papermill passes to a notebook."""
    return {
        name: value for section in config.model_dump().values() for name, value in section.items()
    }


def config_from_parameters(namespace: Mapping[str, Any]) -> Config:
    """Build the config from a notebook's variables.

    A notebook calls it with `globals()` right below its parameters cell. Names that are no field
    are other variables of the notebook and are passed over; fields that the notebook does not
    have keep the values of profile "demo".

    Raises:
        ValueError: a bad value, named with its field; a misspelt name that papermill was given,
            which it only warns of.

    Example:
        >>> config_from_parameters({"image_size": 64, "x": 1}).data.image_size
        64
    """
    sections = field_sections()
    unknown = [name for name in _injected_names(namespace) if name not in sections]
    if unknown:
        raise ValueError(
            f'unknown parameter "{unknown[0]}"{suggestion(unknown[0], sections)}; expected one '
            f"of {', '.join(sections)}."
        )
    return replace_fields(
        Config(), {name: value for name, value in namespace.items() if name in sections}
    )


def _injected_names(namespace: Mapping[str, Any]) -> list[str]:
    """Names that papermill's cell sets: the one whose source, which IPython keeps, begins so."""
    sources = [text for text in namespace.get("_ih", ()) if text.startswith("# Parameters\n")]
    if not sources:
        return []
    return [
        target.id
        for node in ast.parse(sources[-1]).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    ]
