"""A trained model on the page: its accuracy and speed, and its prediction for one image with a heat map."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from lab.checkpoints.checkpoint import About
from lab.checkpoints.ensembles import Member
from lab.data.augmentation import network_input, resample, to_uint8
from lab.data.preprocessing import Preprocessing
from lab.evaluation.attribution import Explainer, empty_colour
from lab.evaluation.confidence import calibrated, threshold
from lab.evaluation.gradcam import explain, heat_map, overlay, stages_to_try
from lab.evaluation.inference import probabilities
from lab.evaluation.unlike import are_unlike, judge
from lab.figures.attribution import evidence
from lab.hardware import Hardware
from models.catalog import find


@dataclass
class TrainedModel:
    """A model of the catalogue with its trained members.

    Attributes:
        d4: whether predictions are averaged over the eight views of D4.
        accuracy: on valid, a fraction, with its 95 % interval; NaN if unknown.
        history: one row per epoch.
        milliseconds: time to predict one image on this machine, all views and members included.
    """

    name: str
    members: list[Member]
    d4: bool
    accuracy: tuple[float, float, float]
    history: pd.DataFrame | None = None
    milliseconds: float = 0.0

    @property
    def title(self) -> str:
        """The model's name in texts."""
        return find(self.name).title

    @property
    def about(self) -> About:
        """The description of the first member, which holds for all."""
        return self.members[0][1]

    @property
    def preprocessing(self) -> Preprocessing:
        """The preprocessing of the first member."""
        return self.about.preprocessing

    @property
    def classes(self) -> list[str]:
        """Names of the classes, in the order of their labels."""
        return self.about.classes

    @property
    def threshold(self) -> float:
        """The confidence below which a prediction is uncertain."""
        return threshold(self.about, self.d4)

    def is_certain(self, probabilities: np.ndarray) -> bool:
        """Whether the highest of an image's class probabilities [K] reaches the threshold."""
        return float(probabilities.max()) >= self.threshold


@dataclass(frozen=True)
class Prediction:
    """A model's prediction for one image.

    Attributes:
        probabilities: float [K].
        input: the network's input, uint8 [S, S, 3].
        heat: Grad-CAM heat map over the window, uint8 [T, T, 3]; None if the network has no feature maps.
        label: the class that the heat map explains.
        stage: the layer at which it was computed.
        map_side: side of that layer's feature map.
        has_evidence: whether any value of the heat map is positive.
    """

    model: TrainedModel
    probabilities: np.ndarray
    input: np.ndarray
    heat: np.ndarray | None
    label: int
    stage: str
    map_side: int
    has_evidence: bool

    @property
    def predicted(self) -> int:
        """The most probable class."""
        return int(self.probabilities.argmax())

    @property
    def certain(self) -> bool:
        """Whether the confidence reaches the model's threshold."""
        return self.model.is_certain(self.probabilities)


def network_inputs(
    model: TrainedModel, image: np.ndarray, hardware: Hardware
) -> tuple[np.ndarray, np.ndarray, list[Tensor]]:
    """Preprocess a raw image, RGB uint8 [H, W, 3].

    Returns the first member's window, uint8 [T, T, 3], and input, uint8 [S, S, 3], and every member's normalised input,
    float32 [1, 3, S, S].
    """
    preprocessings = [about.preprocessing for _, about in model.members]
    windows = [torch.from_numpy(preprocessing.crop(image)[None]) for preprocessing in preprocessings]
    pairs = zip(windows, preprocessings, strict=True)
    inputs = [network_input(window, preprocessing).to(hardware.device) for window, preprocessing in pairs]
    first, window = preprocessings[0], windows[0]
    return window[0].numpy(), to_uint8(resample(window, first.size, padding=first.padding))[0], inputs


def is_unlike(models: Sequence[TrainedModel], image: np.ndarray) -> bool:
    """Whether a raw image, RGB uint8 [H, W, 3], is unlike the training images."""
    about = judge([model.about for model in models])
    window = torch.from_numpy(about.preprocessing.crop(image)[None])
    batch = network_input(window, about.preprocessing), torch.empty(0), np.arange(1)
    return bool(are_unlike([batch], about)[0])


def predict_inputs(model: TrainedModel, inputs: list[Tensor], hardware: Hardware) -> np.ndarray:
    """Class probabilities of one image, float [K], averaged over the members."""
    hardware.threads.begin(("predict", model.name))
    pairs = zip(model.members, inputs, strict=True)
    rows = [probabilities(network, input, hardware, model.d4)[0].cpu().numpy() for (network, _), input in pairs]
    return calibrated(np.mean(rows, axis=0)[None], model.about, model.d4)[0]


def predict_image(model: TrainedModel, image: np.ndarray, hardware: Hardware) -> np.ndarray:
    """Class probabilities of a raw image, RGB uint8 [H, W, 3]: float [K]."""
    return predict_inputs(model, network_inputs(model, image, hardware)[2], hardware)


def predict_and_explain(
    model: TrainedModel, image: np.ndarray, hardware: Hardware, label: int | None = None, stage: str = ""
) -> Prediction:
    """Predict one raw image, RGB uint8 [H, W, 3], and compute its heat map; both are averaged over the members.

    The heat map explains class ``label`` (default: the predicted class) at ``stage``. By default the stage is the deepest with a
    feature map that is large enough; if its map has no positive value, the stages before it are tried in turn.
    """
    window, input_image, inputs = network_inputs(model, image, hardware)
    if label is None and len(inputs) > 1:  # for a single member, explain() finds the predicted class in its one pass
        label = int(predict_inputs(model, inputs, hardware).argmax())
    known = find(model.name).stages
    if not known:
        row = predict_inputs(model, inputs, hardware)
        return Prediction(model, row, input_image, None, int(row.argmax()), "", 0, False)
    stages = [stage] if stage in known else stages_to_try(known, input_image.shape[0])
    for stage in stages:
        hardware.threads.begin(("explain", model.name, stage))
        pairs = zip(model.members, inputs, strict=True)
        explained = [explain(network, input, label, stage, hardware, model.d4) for (network, _), input in pairs]
        heat = np.mean([heat_map(cam, window.shape[0]) for _, cam in explained], axis=0)
        if heat.max() > 0:
            break
    row = calibrated(np.mean([shares for shares, _ in explained], axis=0)[None], model.about, model.d4)[0]
    label = int(row.argmax()) if label is None else label
    map_side, has_evidence = explained[0][1].shape[-1], bool(heat.max() > 0)
    return Prediction(model, row, input_image, overlay(window, heat), label, stage, map_side, has_evidence)


QUICK = ("gradcam", "integrated_gradients", "occlusion")  # methods that need no training images


def attribute_image(
    model: TrainedModel, image: np.ndarray, hardware: Hardware, label: int | None
) -> tuple[int, np.ndarray, dict[str, np.ndarray]]:
    """Attributions of a raw image, RGB uint8 [H, W, 3], for class ``label`` (default: the predicted class) by the ``QUICK``
    methods that can explain the model. Of several members the first is explained.

    Returns the class, the input uint8 [S, S, 3], and each method's map as a picture, uint8 [S, S, 3].
    """
    _, input_image, inputs = network_inputs(model, image, hardware)
    label = int(predict_inputs(model, inputs, hardware).argmax()) if label is None else label
    stages = stages_to_try(find(model.name).stages, input_image.shape[0])
    explainer = Explainer(model.members[0][0], hardware, stages, empty=empty_colour(model.preprocessing))
    hardware.threads.begin(("attribute", model.name))
    methods = [method for method in QUICK if method not in explainer.missing()]
    maps = {method: explainer.attribute(method, inputs[0], label) for method in methods}
    return label, input_image, {method: evidence(values) for method, values in maps.items()}


def measure(model: TrainedModel, hardware: Hardware, rounds: int = 3) -> float:
    """Milliseconds to predict one image: the median of ``rounds`` predictions after one warm-up."""
    image = np.zeros((model.preprocessing.window, model.preprocessing.window, 3), dtype=np.uint8)
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        predict_image(model, image, hardware)
        seconds.append(time.perf_counter() - start)
    return 1000 * statistics.median(seconds[1:])
