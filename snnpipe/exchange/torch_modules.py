"""The modules of torch that a file may name when they are kept as one call, and what can be said of any module.

Knows torch; graphs and files are other files' business.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from snnpipe.errors import SnnpipeError
from snnpipe.frozen import FrozenMap

_RNN = "input_size hidden_size num_layers bias batch_first dropout bidirectional"
_CONV = "in_channels out_channels kernel_size stride padding dilation groups bias padding_mode"
#: The modules that a file may name when they are kept as one call, and the arguments that make them, by attribute.
MODULES: FrozenMap[str, tuple[type[nn.Module], tuple[str, ...]]] = FrozenMap({
    kind.__name__: (kind, tuple(arguments.split()))
    for kinds, arguments in (
        ((nn.LSTM,), f"{_RNN} proj_size"), ((nn.GRU,), _RNN), ((nn.RNN,), f"{_RNN} nonlinearity"),
        ((nn.LSTMCell, nn.GRUCell), "input_size hidden_size bias"),
        ((nn.RNNCell,), "input_size hidden_size bias nonlinearity"),
        ((nn.Linear,), "in_features out_features bias"),
        ((nn.Bilinear,), "in1_features in2_features out_features bias"),
        ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
        ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "num_features eps momentum affine track_running_stats"),
        ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
         "num_features eps momentum affine track_running_stats"),
        ((nn.LayerNorm,), "normalized_shape eps elementwise_affine"),
        ((nn.GroupNorm,), "num_groups num_channels eps affine"),
        ((nn.Embedding,), "num_embeddings embedding_dim padding_idx"),
        ((nn.ReLU, nn.ReLU6, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid), "inplace"),
        ((nn.Sigmoid, nn.Tanh, nn.Identity, nn.Softsign, nn.LogSigmoid), ""),
        ((nn.GELU,), "approximate"), ((nn.ELU, nn.CELU), "alpha inplace"), ((nn.LeakyReLU,), "negative_slope inplace"),
        ((nn.Softmax, nn.LogSoftmax), "dim"), ((nn.Flatten,), "start_dim end_dim"), ((nn.Softplus,), "beta threshold"),
        ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
         "kernel_size stride padding dilation return_indices ceil_mode"),
        ((nn.PixelShuffle,), "upscale_factor"), ((nn.PReLU,), "num_parameters"),
    )
    for kind in kinds
})  # fmt: skip
_MOST_LAYERS = 1024


def module_arguments(module: nn.Module) -> dict[str, Any] | None:
    """The arguments that make a module of ``MODULES`` again; ``None`` where they do not tell all of it."""
    kind, names = MODULES.get(type(module).__name__, (None, ()))
    if kind is not type(module):
        return None
    given = {name: getattr(module, name, None) for name in names}
    given |= {"bias": getattr(module, "bias", None) not in (None, False)} if "bias" in given else {}
    try:
        again = make_module(kind.__name__, given)
    except (SnnpipeError, TypeError, ValueError, RuntimeError):
        return None
    return given if facts(again) == facts(module) else None


def make_module(name: str, given: dict[str, Any]) -> nn.Module:
    """The module, without numbers, in evaluation mode.

    Raises:
        SnnpipeError: it is not one of ``MODULES``, or has not these arguments.
    """
    kind, names = MODULES.get(name, (None, ()))
    if kind is None or given.keys() != {*names} or not 1 <= given.get("num_layers", 1) <= _MOST_LAYERS:
        raise SnnpipeError(f"it names the module {name!r}, which is none of those that a file may name, or not so")
    with torch.device("meta"):
        return kind(**given).eval()


def facts(module: nn.Module) -> dict[str, Any]:
    """All that can be said of a module but its numbers, as JSON: by path, of it and those inside it.

    >>> facts(nn.Linear(2, 1))[""]["class"], facts(nn.Linear(2, 1))[""]["weight"]
    ('Linear', [1, 2])
    """
    return {path: _facts(part) for path, part in module.named_modules()}


def _facts(module: nn.Module) -> dict[str, Any]:
    plain = {key: _as_list(value) for key, value in vars(module).items() if _is_plain(value) and value is not None}
    tensors = {**module._parameters, **module._buffers}
    shapes = {key: None if tensor is None else list(tensor.shape) for key, tensor in tensors.items()}
    hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks") and value}
    return {"class": type(module).__name__} | plain | hooks | shapes


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _as_list(value: Any) -> Any:
    return [_as_list(item) for item in value] if isinstance(value, tuple) else value
