"""torchvision: classification, segmentation and video whole, detection by parts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from measuring import Built, randomise
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from cost import torchvision_models, without_fake_kernels
from detectors import greedy_nms

torchvision_models()  # before others import it

Builders = dict[str, Callable[[], Built]]
#: The parts of detectors that are networks; the rest sorts boxes.  Those of a head take what the part before gives.
PARTS = {
    "fasterrcnn": ("backbone", "rpn.head", "roi_heads.box_head", "roi_heads.box_predictor"),
    "maskrcnn": ("backbone", "rpn.head", "roi_heads.mask_head", "roi_heads.mask_predictor"),
    "keypointrcnn": ("backbone", "roi_heads.keypoint_head", "roi_heads.keypoint_predictor"),
    "retinanet": ("backbone", "head"), "fcos": ("backbone", "head"),
    "ssd300": ("backbone", "head"), "ssdlite320": ("backbone", "head"),
}  # fmt: skip


def smallest(create: Callable[..., nn.Module], ways: list[tuple[dict[str, Any], tuple[int, ...]]]) -> Built:
    """The model, made in the first of the ways (options, shape of an input) in which it takes an input."""
    for options, shape in ways:
        try:
            model, x = create(**options).eval(), torch.randn(2, *shape)
            model(x)
            break
        except Exception:
            if (options, shape) == ways[-1]:
                raise
    return Built(model, (x,))


def square(size: int) -> tuple[int, int, int]:
    return 3, size, size


def classification() -> Builders:
    with without_fake_kernels():
        from torchvision import models

    def build(name: str) -> Built:
        small = 56 if "14" in name else 64  # a multiple of the patch
        options = {"aux_logits": False, "init_weights": True} if name in ("googlenet", "inception_v3") else {}
        ways = [({}, square(size)) for size in (64, 96, 224)]
        ways = [({"image_size": small}, square(small))] if name.startswith("vit") else ways
        return smallest(partial(models.get_model, name, **options), ways)

    return {name: partial(build, name) for name in models.list_models(module=models)}


def segmentation() -> Builders:
    with without_fake_kernels():
        from torchvision import models

    def build(name: str) -> Built:
        return smallest(partial(models.get_model, name, weights_backbone=None), [({}, square(64)), ({}, square(96))])

    return {name: partial(build, name) for name in models.list_models(module=models.segmentation)}


def video() -> Builders:
    with without_fake_kernels():
        from torchvision import models

    def build(name: str) -> Built:
        sizes = ((8, 64, 64), (16, 64, 64), (16, 224, 224))
        return smallest(partial(models.get_model, name), [({}, (3, *size)) for size in sizes])

    return {name: partial(build, name) for name in models.list_models(module=models.video)}


def detection() -> Builders:
    with without_fake_kernels():
        import torchvision
    models = torchvision.models
    if not torchvision.extension._has_ops():
        torchvision.ops.boxes.nms = greedy_nms

    def build(name: str, path: str) -> Built:
        options = {"min_size": 96, "max_size": 96} if not name.startswith("ssd") else {}
        limits = {"box_score_thresh": 0.0, "rpn_post_nms_top_n_test": 20, "box_detections_per_img": 10}
        options |= limits if "rcnn" in name else {"score_thresh": 0.0, "topk_candidates": 50, "detections_per_img": 10}
        whole = models.get_model(name, weights=None, weights_backbone=None, num_classes=7, **options).eval()
        part, seen, images = whole.get_submodule(path), list[Any](), list(torch.rand(2, 3, 96, 96))
        randomise(whole, (images,))
        hook = part.register_forward_pre_hook(lambda module, inputs: seen.append(inputs))
        whole(images)
        hook.remove()
        return Built(part, seen[0], whole, path, images)

    names = models.list_models(module=models.detection)
    return {
        f"{name}: {path}": partial(build, name, path) for name in names for path in PARTS[name.split("_")[0]]
    }  # fmt: skip
