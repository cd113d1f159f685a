"""What an exported model says of itself: in its own metadata, and in the JSON beside it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np

from clothseg_utils.core.classes import MOST_CLASSES, Scheme, class_colors
from clothseg_utils.core.config import Resize
from clothseg_utils.prediction.geometry import Normalization

CARD_KEY = "clothseg"
"""Where a model's metadata keep the card: the JSON text that the file beside it holds too."""

SIZE_MULTIPLE = 32
"""Height and width of the network's input are multiples of this, pixels."""

_INPUT = "images: (N, H, W, 3) uint8 RGB, 0..255; H and W multiples of 32, best image_size"
_OUTPUT = "logits: (N, num_labels, H, W) float32; the best of a pixel is its class"


@dataclass(frozen=True)
class ModelCard:
    """What is needed to use an exported network, and what it was made of.

    Attributes:
        class_names: index = class id.
        image_size: side of the square that photos become, pixels.
        resize: how they become it.
        scheme: class scheme that it was trained on.
        normalization: of the photos that it was trained on; part of the graph in ONNX and
            TorchScript, the user's to do with bare weights.
        encoder_name: as `train.encoder_name`.
        encoder_weights: what training began with, in words.
        encoder_license: of these weights.
        version: of the project that exported it.
    """

    class_names: tuple[str, ...]
    image_size: int
    resize: Resize
    scheme: Scheme
    normalization: Normalization
    encoder_name: str
    encoder_weights: str
    encoder_license: str
    version: str

    @property
    def colors(self) -> np.ndarray:
        """(C, 3) uint8 RGB; index = class id."""
        return class_colors(len(self.class_names))

    def to_json(self) -> str:
        """The card as text; names of fields are Hugging Face's where they have one."""
        value = {
            "clothseg_version": self.version,
            "architectures": ["Unet"],
            "num_labels": len(self.class_names),
            "id2label": dict(enumerate(self.class_names)),
            "label2id": {name: class_id for class_id, name in enumerate(self.class_names)},
            "colors": self.colors.tolist(),
            "scheme": self.scheme,
            "image_size": self.image_size,
            "size_multiple": SIZE_MULTIPLE,
            "resize": self.resize,
            "image_mean": self.normalization.mean,
            "image_std": self.normalization.std,
            "encoder_name": self.encoder_name,
            "encoder_weights": self.encoder_weights,
            "encoder_license": self.encoder_license,
            "input": _INPUT,
            "output": _OUTPUT,
        }
        return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def read_card(text: str) -> ModelCard:
    """Read what `ModelCard.to_json` wrote.

    Raises:
        ValueError: no such text; the message says what is wrong with it.
    """
    try:
        value: Mapping[str, Any] = json.loads(text)
        names = {int(class_id): str(name) for class_id, name in value["id2label"].items()}
        card = ModelCard(
            class_names=tuple(names[class_id] for class_id in range(len(names))),
            image_size=int(value["image_size"]),
            resize=value["resize"],
            scheme=value["scheme"],
            normalization=Normalization(tuple(value["image_mean"]), tuple(value["image_std"])),
            encoder_name=str(value["encoder_name"]),
            encoder_weights=str(value["encoder_weights"]),
            encoder_license=str(value["encoder_license"]),
            version=str(value["clothseg_version"]),
        )
    except KeyError as error:
        raise ValueError(f"it lacks {error}") from None
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"it is no card ({error})") from None
    if card.image_size < SIZE_MULTIPLE or card.image_size % SIZE_MULTIPLE:
        raise ValueError(f"image_size {card.image_size} is no multiple of {SIZE_MULTIPLE}")
    if card.resize not in get_args(Resize) or card.scheme not in get_args(Scheme):
        raise ValueError(f"resize {card.resize} or scheme {card.scheme} is unknown")
    if not 1 < len(card.class_names) <= MOST_CLASSES:
        raise ValueError(f"it has {len(card.class_names)} classes")
    return card
