"""Begin with the weights of a file, under whatever names it keeps them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import segmentation_models_pytorch as smp
import torch
from safetensors import SafetensorError

from clothseg_utils.core.config import Config
from clothseg_utils.core.files import resolve_path
from clothseg_utils.core.runs import RunFolder
from clothseg_utils.core.text import count_text, first_names
from clothseg_utils.network.checkpoints import CHECKPOINT_KEY, check_info, stored_normalization
from clothseg_utils.network.encoders import encoder_card, encoder_normalization
from clothseg_utils.network.unet import build_network, read_torch_file
from clothseg_utils.prediction.geometry import Normalization

_SETTING = "train.init_from"
_HEAD = "segmentation_head.0."

# Counts of batches, which old files lack and nothing reads.
_NOT_NEEDED = "num_batches_tracked"


@dataclass(frozen=True)
class StoredWeights:
    """What a file offers to begin with.

    Attributes:
        path: as the settings name it.
        tensors: name -> tensor; names of dicts inside dicts are joined by dots.
        info: what a checkpoint of ours says of itself; empty for other files.
    """

    path: str
    tensors: Mapping[str, torch.Tensor]
    info: Mapping[str, Any]

    def normalization(self, encoder_name: str) -> Normalization:
        """Of the photos: as our checkpoint was trained, else as the encoder's own weights were."""
        return stored_normalization(self.info) if self.info else encoder_normalization(encoder_name)

    @property
    def license(self) -> str:
        """Licence of the weights that a checkpoint of ours began with; else unknown."""
        if not self.info:
            return "unknown"
        train = self.info["config"]["train"]
        known = encoder_card(train["encoder_name"], train["encoder_weights"])["license"]
        return self.info["data"].get("license", known)


@dataclass(frozen=True)
class Taken:
    """What a network took over.

    Attributes:
        kept_classes: (C,) bool, classes whose rows of the head were taken.
        note: what was taken and what was not, in one line.
    """

    kept_classes: np.ndarray
    note: str


def read_weights(config: Config) -> StoredWeights | None:
    """Read the file that training begins with, without running any code from it.

    Raises:
        FileNotFoundError: no such file.
        ValueError: no file of weights, or one that this run would replace.
    """
    path = config.train.init_from
    if not path:
        return None
    file = resolve_path(path)
    run = RunFolder(config.run.outputs_root, config.run.run_name)
    if file.resolve().parent == run.checkpoints_dir.resolve():
        raise ValueError(
            f'{_SETTING} {path} is a checkpoint of run "{run.name}" itself, which a training that '
            "begins with it would replace; expected one of another run. Choose another --run-name."
        )
    is_safe = file.suffix == ".safetensors"
    content: Any = _read_safetensors(file) if is_safe else read_torch_file(file)
    tensors = dict(_tensors_in(content))
    if not tensors:
        raise ValueError(
            f"{_SETTING} {path} holds a {type(content).__name__} without named tensors; expected "
            "a checkpoint, or a state dict that torch.save(network.state_dict(), ...) wrote."
        )
    info = content.get(CHECKPOINT_KEY, {})
    if CHECKPOINT_KEY in content:
        check_info(path, info)
    return StoredWeights(path, tensors, info)


def take_weights(
    network: smp.Unet, stored: StoredWeights, encoder_name: str, class_names: Sequence[str]
) -> Taken:
    """Fill a network with what a file has for it; changed in place.

    Names may begin with anything: the beginning under which most of the network's names are found
    is the right one. The encoder comes whole or not at all, of the decoder what fits, of the head
    the rows of classes with equal names (or the whole, where a file without names of classes has
    as many).

    Args:
        network: of `build_network`.
        stored: of `read_weights`.
        encoder_name: the network's encoder.
        class_names: index = class id.

    Raises:
        ValueError: another encoder, or weights that are no finite numbers.
    """
    own = network.state_dict()
    encoder_names = [name for name in own if name.startswith("encoder.")]
    start = _common_start(encoder_names)
    encoder = _find(encoder_names, start, stored.tensors)
    _check_encoder(encoder, start, own, stored, encoder_name)
    # Of the same network, where the file holds several.
    place = encoder.place.removesuffix(start) if encoder.place.endswith(start) else ""
    beside = [name for name in stored.tensors if _plain(name).startswith(place)]
    rest = _find([name for name in own if name not in encoder_names], "", beside)
    found = encoder.names | rest.names
    new = {name: stored.tensors[theirs] for name, theirs in found.items()}
    fitting = {name: value for name, value in new.items() if value.shape == own[name].shape}
    decoder = [name for name in own if name.startswith("decoder.") and _is_needed(name)]
    rows: list[tuple[int, int]] = []
    about_head = "head new"  # it reads what its own decoder says
    if all(name in fitting for name in decoder):
        rows, about_head = _head_rows(new, own, stored, class_names)
    taken = {name: value for name, value in fitting.items() if not name.startswith(_HEAD)}
    if rows:
        ours, theirs = map(list, zip(*rows, strict=True))
        for name in (f"{_HEAD}weight", f"{_HEAD}bias"):
            taken[name] = own[name].index_copy(0, torch.tensor(ours), new[name][theirs].float())
    _check_finite({found[name]: value for name, value in taken.items()}, stored)
    network.load_state_dict(taken, strict=False)
    used = {found[name] for name in taken}
    left = [name for name, value in stored.tensors.items() if name not in used and value.dim()]
    parts = [
        f"encoder whole ({count_text(len(encoder.names), 'entry', 'entries')})",
        _about_decoder(decoder, rest, own, stored),
        about_head,
    ]
    if not stored.info:
        found_under = place or encoder.place.removesuffix(start)
        parts += [f"found under {found_under}"] if found_under else []
        parts += [f"as much lies under {other}" for other in encoder.others[:1]]
        parts += [f"not taken: {_some(left)}"] if left else []
    kept = np.isin(np.arange(len(class_names)), [row for row, _ in rows])
    return Taken(kept, f"{stored.path}: {', '.join(parts)}")


def check_weights(config: Config) -> None:
    """Refuse, before any work, a file that training could not begin with.

    Raises:
        FileNotFoundError, ValueError: as `read_weights` and `take_weights`.
    """
    stored = read_weights(config)
    if stored is not None:
        encoder_name = config.train.encoder_name
        take_weights(build_network(encoder_name, "none", 1), stored, encoder_name, ["background"])


def starting_normalization(config: Config) -> Normalization:
    """Of the photos that a new training sees; it stays with its checkpoints."""
    stored, encoder_name = read_weights(config), config.train.encoder_name
    return stored.normalization(encoder_name) if stored else encoder_normalization(encoder_name)


@dataclass(frozen=True)
class _Found:
    """Names of a network that a file has, in its own way.

    Attributes:
        names: the network's -> the file's.
        place: what the file's names begin with.
        others: other beginnings under which as many are found.
    """

    names: dict[str, str]
    place: str
    others: list[str]


def _find(names: Iterable[str], start: str, offered: Iterable[str]) -> _Found:
    """Match names by their ends: those of one beginning, that with the most matches.

    Args:
        names: the network's.
        start: what all of them begin with and the file's need not.
        offered: the file's.
    """
    ends = {_spelling(name.removeprefix(start)): name for name in names}
    by_place: dict[str, dict[str, str]] = {}
    for theirs in offered:
        spelling = _spelling(theirs)
        place = ""
        while True:
            if (end := spelling[len(place) :]) in ends:
                by_place.setdefault(place, {})[ends[end]] = theirs
            word, dot, _ = end.partition(".")
            if not dot:
                break
            place += f"{word}."
    best = max(by_place.values(), key=len, default={})
    places = [place for place, found in by_place.items() if best and len(found) == len(best)]
    # As the file writes them.
    places = [_plain(next(iter(by_place[place].values())))[: len(place)] for place in places]
    return _Found(best, places[0] if places else "", places[1:])


def _plain(name: str) -> str:
    """A name without what torch.compile puts in."""
    return name.replace("_orig_mod.", "")


def _spelling(name: str) -> str:
    """A name as it is compared: timm's lists of features write stages_0 for stages.0."""
    return _plain(name).replace("_", ".")


def _common_start(names: Sequence[str]) -> str:
    """What all names begin with: "encoder." or, of timm, "encoder.model."."""
    first, last = min(names).split("."), max(names).split(".")
    n_common = next(i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b)
    return "".join(f"{word}." for word in first[:n_common])


def _check_encoder(
    found: _Found,
    start: str,
    own: Mapping[str, torch.Tensor],
    stored: StoredWeights,
    encoder_name: str,
) -> None:
    """Refuse an encoder that is another one, or not there as a whole."""
    theirs = stored.info["config"]["train"]["encoder_name"] if stored.info else encoder_name
    if theirs.partition(".")[0] != encoder_name.partition(".")[0]:  # but for the tag of its weights
        raise ValueError(
            f"{_SETTING} {stored.path} has the encoder {theirs} and train.encoder_name is "
            f"{encoder_name}; expected the same. Set train.encoder_name={theirs}, or take a "
            f"checkpoint of {encoder_name}."
        )
    needed = [name for name in own if name.startswith("encoder.") and _is_needed(name)]
    missing = [name for name in needed if name not in found.names]
    misshapen = _misshapen(found.names, stored.tensors, own)
    # What a network of more layers has beside the same ones, and a classifier has not.
    places = {name.removeprefix(start).partition(".")[0] for name in found.names}
    used, n_place = {*found.names.values()}, len(found.place)
    further = [
        name
        for name in stored.tensors
        if name not in used
        and _plain(name).startswith(found.place)
        and _plain(name)[n_place:].partition(".")[0] in places
    ]
    if not missing and not misshapen and not further:
        return
    n_fitting = len(needed) - len(missing) - len(misshapen)
    unknown = further if n_fitting else [*stored.tensors]
    faults = {"lacks": missing, "misshapes": misshapen, "has": unknown}
    told = "; ".join(f"{what} {_some(names)}" for what, names in faults.items() if names)
    raise ValueError(
        f"{_SETTING} {stored.path} has {n_fitting} of the {len(needed)} entries of encoder "
        f"{encoder_name}; expected these and no other: it {told}. Set train.encoder_name to the "
        "encoder of the file, or take a file of this one."
    )


def _check_finite(taken: Mapping[str, torch.Tensor], stored: StoredWeights) -> None:
    broken = [n for n, v in taken.items() if v.is_floating_point() and not v.isfinite().all()]
    if broken:
        raise ValueError(
            f"{_SETTING} {stored.path} has numbers that are infinite or NaN in {_some(broken)}; "
            "expected finite ones. Take an earlier checkpoint."
        )


def _misshapen(
    names: Mapping[str, str], tensors: Mapping[str, torch.Tensor], own: Mapping[str, torch.Tensor]
) -> list[str]:
    """Entries that a file has in another shape, both shapes named."""
    return [
        f"{name} {tuple(tensors[theirs].shape)} instead of {tuple(own[name].shape)}"
        for name, theirs in names.items()
        if tensors[theirs].shape != own[name].shape
    ]


def _about_decoder(
    needed: Sequence[str], rest: _Found, own: Mapping[str, torch.Tensor], stored: StoredWeights
) -> str:
    there = {name: rest.names[name] for name in needed if name in rest.names}
    misshapen = _misshapen(there, stored.tensors, own)
    n_taken = len(there) - len(misshapen)
    if n_taken == len(needed):
        return "decoder whole"
    faults = {
        "misshapes": misshapen,
        "lacks": [name for name in needed if name not in there] if there else [],
    }
    told = "; ".join(f"{what} {_some(names)}" for what, names in faults.items() if names)
    about = f"decoder {n_taken} of {len(needed)} entries" if n_taken else "decoder new"
    return f"{about} ({told})" if told else about


def _head_rows(
    found: Mapping[str, torch.Tensor],
    own: Mapping[str, torch.Tensor],
    stored: StoredWeights,
    class_names: Sequence[str],
) -> tuple[list[tuple[int, int]], str]:
    """Rows of the head that stay, ours and theirs; and what to say of it."""
    parts = (f"{_HEAD}weight", f"{_HEAD}bias")
    if any(name not in found for name in parts):
        return [], "head new"
    if any(found[name].shape[1:] != own[name].shape[1:] for name in parts):
        return [], "head new (another shape)"
    n_theirs = len(found[parts[1]])
    names = stored.info.get("class_names")
    if names is None:
        if n_theirs != len(class_names):
            return [], f"head new ({count_text(n_theirs, 'class', 'classes')} there, without names)"
        return [(i, i) for i in range(n_theirs)], (
            f"head whole (the file names no classes: its {n_theirs} are taken for ours, in order)"
        )
    rows = [(i, names.index(name)) for i, name in enumerate(class_names) if name in names]
    if len(rows) == len(class_names):
        return rows, "head whole"
    new = [name for name in class_names if name not in names]
    kept = first_names([class_names[i] for i, _ in rows]) or "none"
    return rows, f"head rows of classes of equal name ({kept}), new ones of {first_names(new)}"


def _some(names: Sequence[str]) -> str:
    return names[0] + (f" and {len(names) - 1:,} more" if len(names) > 1 else "")


def _is_needed(name: str) -> bool:
    return not name.endswith(_NOT_NEEDED)


def _tensors_in(content: Any, place: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of a dict and of all dicts inside it, by their joined names."""
    for name, value in content.items() if isinstance(content, Mapping) else ():
        if isinstance(name, str):
            if isinstance(value, torch.Tensor):
                yield f"{place}{name}", value
            else:
                yield from _tensors_in(value, f"{place}{name}.")


def _read_safetensors(file: Path) -> dict[str, torch.Tensor]:
    if not file.is_file():
        raise FileNotFoundError(f"{_SETTING}: no such file: {file}; check the path.")
    try:
        return safetensors.torch.load_file(file)
    except (SafetensorError, ValueError) as error:
        raise ValueError(
            f"{file} cannot be read as safetensors ({error}); expected a whole "
            "file. Fetch it again."
        ) from error
