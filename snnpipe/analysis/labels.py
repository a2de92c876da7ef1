"""The labels in a batch: the item behind the inputs.

Knows the kinds of batches; what labels are good for is the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from snnpipe.errors import CalibrationError
from snnpipe.graph import Graph

#: Keys under which a dictionary batch keeps its labels, in order of preference.
LABEL_KEYS = ("labels", "label", "targets", "target", "y")

#: ``labels(batch)``: where the user's labels are.
Labels = Callable[[Any], Any]


def labels_of(batch: Any, graph: Graph, said: Labels | None, number: int) -> Any:
    """The labels of a batch as tensors, ``None`` where it has none.

    * a tuple or list: the item behind as many as the model has inputs;
    * a dictionary: under one of ``LABEL_KEYS``, but for one that the model itself reads;
    * anything else has none, unless a function says where they are.
    """
    if said is not None:
        return _tensor(said(batch), number)
    if isinstance(batch, Mapping):
        inputs = {node["name"] for node in graph.inputs}
        key = next((key for key in LABEL_KEYS if key in batch and key not in inputs), None)
        return None if key is None else _tensor(batch[key], number)
    if isinstance(batch, tuple | list) and len(batch) > len(graph.inputs):
        return _tensor(batch[len(graph.inputs)], number)
    return None


def _tensor(value: Any, number: int) -> Any:
    if isinstance(value, Mapping):
        return {key: _tensor(item, number) for key, item in value.items()}
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CalibrationError(
            f"evaluate: the labels of batch {number} are a {type(value).__name__}, which is no tensor; say where they "
            "are: evaluate(snn, loader, T=..., labels=lambda batch: ...)"
        ) from error
