"""torchvision's detectors with spiking backbones: boxes and scores held against the ANN's as T grows.

    python docs/benchmarks/detectors.py [--steps 4 16 64] [--images 2]

The weights are random (trained ones would have to be downloaded), with the normalisation statistics of the pictures; so
what is measured is how near the detector with the spiking backbone comes to the same detector without, not how well it
detects.  The pictures are crops of scikit-learn's two photographs: eight for calibration, others to compare on.

Without neurons, under TD, the backbone is exact but for rounding.  Shown are the mean relative error of the features;
of the ANN's 20 best boxes of each picture the share that the other one has too (same class, intersection over union at
least 0.5); and of these the mean difference of the scores.
"""

from __future__ import annotations

import argparse
import copy
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from snnpipe import (
    Neuron,
    calibrate,
    cascade,
    embed,
    fuse,
    integrate_and_fire,
    pipe,
    replace,
    td_rewrite,
    to_snn,
    trace,
)

sys.path.insert(0, str(Path(__file__).parent))
from cost import torchvision_models

SIZE = 160
NEURONS: Mapping[str, Neuron | None] = {"none, TD": None, "if": integrate_and_fire(), "cascade(n=4)": cascade(n=4)}


def pictures() -> list[Tensor]:
    """Sixteen crops (3, 160, 160) in [0, 1], which do not overlap."""
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).permute(2, 0, 1) / 255 for image in load_sample_images().images]
    corners = [(y, x) for y in (0, SIZE) for x in range(0, 4 * SIZE, SIZE)]
    return [photo[:, y : y + SIZE, x : x + SIZE] for y, x in corners for photo in photographs]


def greedy_nms(boxes: Tensor, scores: Tensor, iou_threshold: float) -> Tensor:
    """``torchvision.ops.nms`` in Python, for wheels whose compiled operators do not fit this torch."""
    from torchvision.ops import box_iou

    order, kept = scores.argsort(descending=True, stable=True), list[Tensor]()
    while len(order):
        kept.append(order[0])
        rest = order[1:]
        order = rest[box_iou(boxes[order[:1]], boxes[rest])[0] <= iou_threshold]
    return torch.stack(kept) if kept else order


def detectors(models: Any) -> dict[str, Callable[[], nn.Module]]:
    """Detectors by name."""
    import torchvision
    from torchvision.models.detection import FasterRCNN, RetinaNet

    if not torchvision.extension._has_ops():
        torchvision.ops.boxes.nms = greedy_nms
    detection, sizes = models.detection, {"min_size": SIZE, "max_size": SIZE}

    def resnet18() -> Any:
        return detection.backbone_utils.resnet_fpn_backbone(
            backbone_name="resnet18", weights=None, norm_layer=nn.BatchNorm2d, trainable_layers=5
        )

    def retina() -> nn.Module:
        model = RetinaNet(resnet18(), num_classes=21, score_thresh=0.0, topk_candidates=200, **sizes)
        nn.init.normal_(model.head.classification_head.cls_logits.weight, std=0.1)
        return model

    return {
        "Faster R-CNN, ResNet-18": lambda: FasterRCNN(
            resnet18(), num_classes=21, rpn_post_nms_top_n_test=100, box_score_thresh=0.0, **sizes
        ),
        "RetinaNet, ResNet-18": retina,
        "SSDlite, MobileNetV3": lambda: detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=21, score_thresh=0.0
        ),
    }


def normalised(model: Any, images: list[Tensor]) -> nn.Module:
    """The model with the statistics of the pictures in its batch norms."""
    norms = [module for module in model.backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    model.eval()
    for norm in norms:
        norm.train()
    with torch.no_grad():
        model(images)
    trained: nn.Module = model.eval()
    return trained


def features(model: Any, images: list[Tensor]) -> list[Tensor]:
    """What the backbone gives the head."""
    prepared, _ = model.transform(copy.deepcopy(images))
    return list(model.backbone(prepared.tensors).values())


def agreement(want: list[dict[str, Tensor]], got: list[dict[str, Tensor]]) -> tuple[float, float]:
    """Share of the best boxes that are found, and how far the scores of these are apart."""
    from torchvision.ops import box_iou

    found, apart = list[bool](), list[float]()
    for one, other in zip(want, got, strict=True):
        overlaps = box_iou(one["boxes"][:20], other["boxes"])
        overlaps = overlaps * (one["labels"][:20, None] == other["labels"][None])
        for k, overlap in enumerate(overlaps):
            best = int(overlap.argmax()) if len(overlap) else -1
            found.append(best >= 0 and bool(overlap[best] >= 0.5))
            apart += [float((one["scores"][k] - other["scores"][best]).abs())] * found[-1]
    return 100 * sum(found) / max(len(found), 1), sum(apart) / max(len(apart), 1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, nargs="+", default=[4, 16, 64])
    parser.add_argument("--images", type=int, default=2)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    models = torchvision_models()
    if models is None:
        raise SystemExit("needs torchvision")
    images = pictures()
    seen, new = images[:8], images[8 : 8 + given.images]
    print(f"{'detector':26}{'neuron':14}{'T':>5}{'features %':>12}{'boxes %':>10}{'scores':>10}")
    for name, make in detectors(models).items():
        torch.manual_seed(0)
        model = normalised(make(), seen)
        state = pipe(model, trace(part="backbone"), fuse, calibrate([seen]))
        with torch.no_grad():
            want, wanted = model(new), features(model, new)
            for label, neuron in NEURONS.items():
                stages = (td_rewrite,) if neuron is None else (replace(neuron=neuron),)
                snn = pipe(state, *stages, to_snn)
                for T in given.steps if neuron is not None else [2]:
                    hybrid = embed(model, {"backbone": snn}, T=T)
                    pairs = zip(features(hybrid, new), wanted, strict=True)
                    error = sum(float((a - b).norm() / b.norm()) for a, b in pairs) / len(wanted)
                    share, apart = agreement(want, hybrid(new))
                    print(f"{name:26}{label:14}{T:>5}{100 * error:>12.1f}{share:>10.1f}{apart:>10.4f}", flush=True)


if __name__ == "__main__":
    main()
