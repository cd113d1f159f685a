"""Loss: as in smp, by hand, and no larger in memory than it must be."""

import math
import shutil
import subprocess
import sys
import warnings
from collections import Counter

import pytest
import torch
from segmentation_models_pytorch.losses import DiceLoss, FocalLoss, LovaszLoss
from torch.utils._python_dispatch import TorchDispatchMode

from clothseg_utils.training import losses
from clothseg_utils.training.losses import DiceFocalLoss
from clothseg_utils.training.lovasz import lovasz_softmax

IGNORE = 255
C = 5


def make_batch(case: str, *, num_classes: int = C, side: int = 24, seed: int = 0):
    """Return float32 logits (2, C, side, side) and an int64 target (2, side, side) of one kind."""
    rng = torch.Generator().manual_seed(seed)
    target = torch.randint(0, num_classes, (2, side, side), generator=rng)
    if "absent" in case:
        target[target >= num_classes - 2] = 0
    if "ignored" in case:
        target[:, : side // 4] = IGNORE
        target[1, :, side // 2 :] = IGNORE
    logits = 3 * torch.randn(2, num_classes, side, side, generator=rng)
    if "good" in case:  # a network that is nearly always right
        winner = torch.where(target == IGNORE, 0, target).unsqueeze(1)
        logits.scatter_add_(1, winner, torch.full(winner.shape, 12.0))
    return logits, target


@pytest.fixture(params=["CPU", "accelerator"])
def way(request, monkeypatch):
    """Each way to compute the loss: that of CPUs, block by block, and that of accelerators."""
    if request.param == "accelerator":
        monkeypatch.setattr(losses, "_BlockSums", losses._BatchSums)


both_ways = pytest.mark.usefixtures("way")


def value_and_grad(loss_function, logits, target):
    logits = logits.detach().clone().requires_grad_()
    value = loss_function(logits, target)
    (grad,) = torch.autograd.grad(value, logits)
    return value.detach(), grad


@both_ways
@pytest.mark.parametrize("part", ["dice", "focal"])
@pytest.mark.parametrize("num_classes", [2, 13, 47])
@pytest.mark.parametrize("case", ["all classes", "ignored", "absent", "absent, ignored, good"])
def test_default_form_reproduces_smp(part, num_classes, case):
    # smp runs in float64: its own float32 Dice (an L1 norm over all pixels) is off by up to 1e-3.
    referee = {
        "dice": DiceLoss("multiclass", smooth=1.0, ignore_index=IGNORE),
        "focal": FocalLoss("multiclass", ignore_index=IGNORE),
    }[part]
    logits, target = make_batch(case, num_classes=num_classes)
    expected, expected_grad = value_and_grad(referee, logits.double(), target)
    loss_function = DiceFocalLoss()
    value, grad = value_and_grad(
        lambda x, t: getattr(loss_function(x, t), part), logits, target.to(torch.uint8)
    )
    assert value.item() == pytest.approx(expected.item(), abs=1e-6)
    assert expected_grad.abs().max() > 0
    smallest = 1e-5 * expected_grad.abs().max().item()
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=smallest)


def added_focal_losses(logits, target, gamma=2.0):
    """The focal losses of the classes one by one, with autograd's gradient, added up."""
    counted = target != IGNORE
    total = 0
    for class_id in range(logits.shape[1]):
        x, y = logits[:, class_id][counted], (target[counted] == class_id).to(logits.dtype)
        cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(x, y, reduction="none")
        total += ((1 - (-cross_entropy).exp()) ** gamma * cross_entropy).mean()
    return total


@both_ways
@pytest.mark.parametrize("num_classes", [2, 13])
@pytest.mark.parametrize("case", ["all classes", "absent, ignored, good"])
def test_focal_sum_adds_up_one_loss_for_each_class(num_classes, case):
    logits, target = make_batch(case, num_classes=num_classes)
    expected = value_and_grad(added_focal_losses, logits.double(), target)
    summing, averaging = DiceFocalLoss(focal_form="sum"), DiceFocalLoss()
    got = value_and_grad(lambda x, t: summing(x, t).focal, logits, target)
    torch.testing.assert_close(got, tuple(e.float() for e in expected), rtol=1e-5, atol=1e-8)
    mean = averaging(logits, target).focal
    assert got[0].item() == pytest.approx(num_classes * mean.item())
    parts = summing(logits, target)
    assert parts.loss.item() == pytest.approx(0.5 * parts.dice.item() + 0.5 * parts.focal.item())


@both_ways
@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("case", ["all classes", "absent, ignored, good"])
def test_focal_of_the_softmax_by_autograd(gamma, case):
    def referee(x, t):
        cross_entropy = torch.nn.functional.cross_entropy(
            x, t, ignore_index=IGNORE, reduction="none"
        )[t != IGNORE]
        return ((1 - (-cross_entropy).exp()) ** gamma * cross_entropy).mean()

    logits, target = make_batch(case, num_classes=13)
    expected = value_and_grad(referee, logits.double(), target)
    if gamma == 0:
        usual = torch.nn.functional.cross_entropy(logits, target, ignore_index=IGNORE)
        assert expected[0].item() == pytest.approx(usual.item())
    loss_function = DiceFocalLoss(focal_form="softmax", focal_gamma=gamma)
    got = value_and_grad(lambda x, t: loss_function(x, t).focal, logits, target)
    torch.testing.assert_close(got, tuple(e.float() for e in expected), rtol=1e-4, atol=1e-9)
    parts = loss_function(logits, target)
    assert parts.loss.item() == pytest.approx(0.5 * parts.dice.item() + 0.5 * parts.focal.item())


@both_ways
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_of_the_softmax_is_finite_for_certain_pixels(gamma):
    """Right ones, where the powers of 1 - q vanish, and wrong ones, where q itself does."""
    logits = torch.tensor([200.0, 0.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    loss_function = DiceFocalLoss(focal_form="softmax", focal_gamma=gamma)
    value, grad = value_and_grad(
        lambda x, t: loss_function(x, t).focal, logits, torch.tensor([[[0, 1]]])
    )
    assert value.item() == pytest.approx(100)  # the wrong one's 200 over two pixels
    expected = torch.tensor([[0.0, 0.5], [0.0, -0.5]]).view(1, 2, 1, 2)
    torch.testing.assert_close(grad, expected)


@pytest.mark.slow
def test_focal_sum_is_that_of_the_earlier_system(tmp_path):
    """That is smp 0.5.0: the release itself is the referee, in a process of its own."""
    install = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-compile", "--quiet"]
    fetched = subprocess.run(
        [*install, "--target", str(tmp_path / "smp"), "segmentation-models-pytorch==0.5.0"],
        capture_output=True,
        text=True,
        timeout=120,
    )
    if fetched.returncode:
        pytest.skip(f"smp 0.5.0 cannot be fetched: {fetched.stderr.strip()[-200:]}")
    logits, target = make_batch("ignored, absent", num_classes=13)
    torch.save((logits, target), tmp_path / "batch.pt")
    referee = f"""
import sys
sys.path.insert(0, {str(tmp_path / "smp")!r})
import torch
import segmentation_models_pytorch as smp
assert smp.__version__ == "0.5.0", smp.__version__
logits, target = torch.load({str(tmp_path / "batch.pt")!r})
logits = logits.double().requires_grad_()
value = smp.losses.FocalLoss("multiclass", ignore_index={IGNORE})(logits, target)
torch.save((value.detach(), torch.autograd.grad(value, logits)[0]), {str(tmp_path / "o.pt")!r})
"""
    subprocess.run([sys.executable, "-c", referee], check=True, timeout=120)
    expected, expected_grad = torch.load(tmp_path / "o.pt")
    loss_function = DiceFocalLoss(focal_form="sum")
    value, grad = value_and_grad(lambda x, t: loss_function(x, t).focal, logits, target)
    assert value.item() == pytest.approx(expected.item(), rel=1e-6)
    torch.testing.assert_close(grad.double(), expected_grad, rtol=1e-4, atol=1e-9)


@both_ways
@pytest.mark.parametrize(
    ("smooth", "gamma"),
    [
        (0.0, 2.0),  # Dice denominator held up by the epsilon alone
        (10.0, 2.0),
        (1.0, 0.0),  # focal becomes plain binary cross-entropy
        (1.0, 1.5),
    ],
)
def test_smooth_and_gamma_mean_what_they_mean_in_smp(smooth, gamma):
    logits, target = make_batch("ignored, absent")
    logits = logits.double()
    dice = DiceLoss("multiclass", smooth=smooth, ignore_index=IGNORE)
    focal = FocalLoss("multiclass", gamma=gamma, ignore_index=IGNORE)
    expected = value_and_grad(lambda x, t: 0.3 * dice(x, t) + 0.7 * focal(x, t), logits, target)
    loss_function = DiceFocalLoss(0.3, 0.7, dice_smooth=smooth, focal_gamma=gamma)
    got = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, target)
    torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-10)


def test_hand_counted_loss_of_both_dice_forms():
    # Two pixels of class 0, three classes, nothing learnt: p = 1/3 everywhere. Class 0 has
    # hits 2/3, predicted 2/3, labelled 2, so score (2/3 + 1) / ((2/3 + 2) / 2 + 1) = 5/7.
    logits, target = torch.zeros(1, 3, 1, 2), torch.zeros(1, 1, 2, dtype=torch.uint8)
    smp_form = DiceFocalLoss()(logits, target)
    present_form = DiceFocalLoss(dice_form="present")(logits, target)
    assert present_form.dice.item() == pytest.approx(2 / 7)
    assert smp_form.dice.item() == pytest.approx(2 / 7 / 3)
    # sigmoid(0) squared times softplus(0), for every class of every pixel
    assert smp_form.focal.item() == pytest.approx(0.25 * math.log(2))
    assert smp_form.loss.item() == pytest.approx(0.5 * 2 / 21 + 0.5 * 0.25 * math.log(2))


def test_present_form_counts_classes_over_the_batch_not_per_image():
    logits = torch.zeros(2, 3, 1, 1)
    target = torch.tensor([[[0]], [[1]]])  # class 2 in neither image
    smp_form = DiceFocalLoss()(logits, target).dice
    present_form = DiceFocalLoss(dice_form="present")(logits, target).dice
    assert present_form.item() == pytest.approx(smp_form.item() * 3 / 2)


@both_ways
@pytest.mark.parametrize("dice_form", ["smp", "present"])
@pytest.mark.parametrize("smooth", [0.0, 1.0])
def test_all_ignored_is_zero_with_zero_gradient(dice_form, smooth):
    logits, target = make_batch("all classes")
    loss_function = DiceFocalLoss(dice_form=dice_form, dice_smooth=smooth)
    ignored = torch.full_like(target, IGNORE)
    value, grad = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, ignored)
    assert value.item() == 0
    assert torch.equal(grad, torch.zeros_like(grad))


@both_ways
def test_logits_of_ignored_pixels_change_nothing():
    logits, target = make_batch("ignored")
    changed = torch.where((target == IGNORE).unsqueeze(1), 50.0, logits)
    loss_function = DiceFocalLoss()
    value, grad = value_and_grad(lambda x, t: loss_function(x, t).loss, changed, target)
    expected, _ = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, target)
    assert torch.equal(value, expected)
    assert (grad.movedim(1, -1)[target == IGNORE] == 0).all()


@both_ways
@pytest.mark.parametrize("dice_form", ["smp", "present"])
@pytest.mark.parametrize("gamma", [0.0, 1.5, 2.0])
def test_closed_form_gradient_passes_gradcheck(dice_form, gamma):
    logits, target = make_batch("ignored, absent", side=4)
    loss_function = DiceFocalLoss(dice_form=dice_form, focal_gamma=gamma)
    logits = logits.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: loss_function(x, target)[1:], (logits,))


@both_ways
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_computed_in_float32(dtype):
    logits, target = make_batch("ignored")
    logits = logits.to(dtype)
    loss_function = DiceFocalLoss()
    expected, expected_grad = value_and_grad(
        lambda x, t: loss_function(x, t).loss, logits.float(), target
    )
    # A scaled loss, as in fp16 training: unscaled gradients are below the smallest float16.
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value, grad = value_and_grad(
            lambda x, t: 65536.0 * loss_function(x, t).loss, logits, target
        )
    assert value.dtype == torch.float32
    assert value.item() == 65536.0 * expected.item()
    assert grad.dtype == dtype
    one_rounding = torch.finfo(dtype).eps
    torch.testing.assert_close(
        grad.float(), 65536.0 * expected_grad, rtol=one_rounding, atol=one_rounding * 1e-2
    )


@both_ways
def test_large_logits_stay_finite():
    target = torch.tensor([[[0, 1]]])
    logits = torch.tensor([[[[-3e4, 3e4]], [[3e4, -3e4]]]])  # as wrong as float16 can be
    value, grad = value_and_grad(lambda x, t: DiceFocalLoss()(x, t).loss, logits, target)
    assert value.item() == pytest.approx(0.5 * (1 - 1 / 2) + 0.5 * 3e4)
    assert torch.isfinite(grad).all()


def test_channels_last_logits_give_the_same_result():
    logits, target = make_batch("ignored")
    loss_function = DiceFocalLoss()
    expected = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, target)
    channels_last = logits.to(memory_format=torch.channels_last)
    got = value_and_grad(lambda x, t: loss_function(x, t).loss, channels_last, target)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


def kept_for_backward(logits, target):
    """Sizes of the large tensors that the loss keeps for its backward pass."""
    kept: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda tensor: (kept.append(tensor.numel()), tensor)[1], lambda tensor: tensor
    ):
        DiceFocalLoss()(logits, target)
    return sorted(n for n in kept if n > C)


def test_two_tensors_of_the_logits_size_are_kept_for_the_backward_pass():
    logits, target = make_batch("all classes", side=32)
    sizes = kept_for_backward(logits.requires_grad_(), target)
    assert sizes == [target.numel(), logits.numel(), logits.numel()]


@both_ways
def test_nothing_is_kept_in_validation():
    assert kept_for_backward(*make_batch("all classes", side=32)) == []


def test_accelerators_keep_nothing_but_what_they_were_given(monkeypatch):
    monkeypatch.setattr(losses, "_BlockSums", losses._BatchSums)
    logits, target = make_batch("all classes", side=32)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: (kept.append(t), t)[1], lambda t: t):
        DiceFocalLoss()(logits.requires_grad_(), target)
    large = {tensor.data_ptr() for tensor in kept if tensor.numel() > C}
    assert large == {logits.data_ptr(), target.data_ptr()}


class CountedOperations(TorchDispatchMode):
    """Counts what a GPU would be asked to do."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[str(func)] += 1
        return func(*args, **(kwargs or {}))


def test_accelerators_run_as_many_kernels_for_a_large_batch_as_for_a_small_one(monkeypatch):
    monkeypatch.setattr(losses, "_BlockSums", losses._BatchSums)
    monkeypatch.setattr(losses, "_check_ids", lambda *_: None)  # on the CPU only
    counts = []
    for repeats in (1, 4):
        logits, target = make_batch("ignored")
        logits, target = logits.repeat(repeats, 1, 1, 1), target.repeat(repeats, 1, 1)
        with CountedOperations() as operations:
            value_and_grad(lambda x, t: DiceFocalLoss()(x, t).loss, logits, target)
        counts.append(operations.counts)
    assert counts[0] == counts[1]
    assert counts[0].total() < 120


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")  # the compiler's own, of a machine without CUDA
def test_compiled_loss_is_the_loss_as_written(monkeypatch):
    logits, target = make_batch("ignored, absent")
    logits = logits.to(memory_format=torch.channels_last)
    loss_function = DiceFocalLoss()
    expected = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, target)
    monkeypatch.setattr(losses, "_BlockSums", losses._BatchSums)
    monkeypatch.setattr(losses, "_wants_fusion", lambda logits: True)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "the loss is not compiled")
        got = value_and_grad(lambda x, t: loss_function(x, t).loss, logits, target)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-9)
    assert got[1].is_contiguous(memory_format=torch.channels_last)


def test_loss_runs_as_written_where_nothing_compiles(monkeypatch):
    """As on a machine with a GPU and without a C compiler: one warning, the same values."""

    def no_compiler(*args):
        raise RuntimeError("Failed to find C compiler.\nPlease specify one.")

    monkeypatch.setattr(losses.torch, "compile", lambda function, **_: no_compiler)
    monkeypatch.setattr(losses, "_wants_fusion", lambda logits: True)
    logits, target = make_batch("ignored")
    sums = losses._fused(losses._batch_sums.__wrapped__)
    with pytest.warns(UserWarning, match=r"not compiled .*RuntimeError: Failed to find C compiler"):
        first = sums(logits, target, 2.0, False)
    torch.testing.assert_close(first, losses._batch_sums.__wrapped__(logits, target, 2.0, False))
    # A second warning would be an error.
    torch.testing.assert_close(sums(logits, target, 2.0, False), first)


def test_a_full_memory_is_not_taken_for_a_missing_compiler(monkeypatch):
    def full(*args):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(losses.torch, "compile", lambda function, **_: full)
    monkeypatch.setattr(losses, "_wants_fusion", lambda logits: True)
    with pytest.raises(torch.OutOfMemoryError):
        losses._fused(losses._batch_sums.__wrapped__)(*make_batch("ignored"), 2.0, False)


@pytest.mark.parametrize("block_numbers", [1, 3 * C * 24, 10**6])
def test_the_size_of_the_blocks_changes_nothing(monkeypatch, block_numbers):
    """One row, three rows (the last block is as small), a whole image at once."""
    logits, target = make_batch("ignored, absent", side=24)
    expected = value_and_grad(lambda x, t: DiceFocalLoss()(x, t).loss, logits, target)
    monkeypatch.setattr(losses, "_BLOCK_NUMBERS", block_numbers)
    got = value_and_grad(lambda x, t: DiceFocalLoss()(x, t).loss, logits, target)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize(
    ("ids", "message"),
    [([0, 3], r"class ids \[3\]; expected 0\.\.2 or 255"), ([-1, 254], r"class ids \[-1, 254\]")],
)
def test_class_ids_beyond_the_logits_are_named(ids, message):
    with pytest.raises(ValueError, match=message):
        DiceFocalLoss()(torch.zeros(1, 3, 1, 2), torch.tensor([[ids]]))


@pytest.mark.parametrize("num_classes", [2, 13])
@pytest.mark.parametrize("case", ["all classes", "ignored", "absent", "absent, ignored, good"])
def test_lovasz_is_that_of_smp_on_every_second_row_and_column(num_classes, case):
    logits, target = make_batch(case, num_classes=num_classes)
    theirs = LovaszLoss("multiclass", ignore_index=IGNORE)
    value, grad = value_and_grad(lovasz_softmax, logits, target)
    expected, expected_grad = value_and_grad(
        lambda x, y: theirs(x[:, :, ::2, ::2], y[:, ::2, ::2]), logits, target
    )
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-4, atol=1e-8)


def test_lovasz_of_sharp_masks_is_one_minus_their_mean_iou():
    """Class 0 has two pixels of three right, class 1 one, and one of class 0 beside it."""
    target = torch.tensor([[0, 0, 0, 1, IGNORE]])
    sharp = 50 * torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 1, 0]]), 3).float()
    logits = sharp.permute(0, 2, 1)[:, :, None].repeat_interleave(2, 3)  # half is looked at
    value = lovasz_softmax(logits, target[:, None].repeat_interleave(2, 2))
    assert value.item() == pytest.approx(1 - (2 / 3 + 1 / 2) / 2)


def test_lovasz_of_ignored_pixels_alone_is_zero_and_so_is_its_gradient():
    logits, target = make_batch("all classes")
    value, grad = value_and_grad(lovasz_softmax, logits, torch.full_like(target, IGNORE))
    assert value == 0
    assert not grad.any()


def test_lovasz_part_is_added_by_its_weight():
    logits, target = make_batch("ignored")
    plain, summed = (DiceFocalLoss(lovasz_weight=w)(logits, target) for w in (0.0, 0.5))
    assert summed.loss - plain.loss == pytest.approx(0.5 * lovasz_softmax(logits, target).item())
    assert summed[1:] == plain[1:]
