"""The words of texts: what may be named in one, and what may be called.

Knows the package's names; how a text is taken apart is ``exchange.expressions``' business.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch

from snnpipe import codes, recipe, waves
from snnpipe.exchange import known, statistics, torch_modules
from snnpipe.frozen import FrozenMap
from snnpipe.kernels import codebook, neuron, statistic, threshold
from snnpipe.rules import fusion, operands, selecting, sites
from snnpipe.runtime import encoding
from snnpipe.stages import (
    balance,
    calibrate,
    correct,
    fuse,
    instrument,
    replace,
    td_rewrite,
    thresholds,
    to_snn,
    trace,
    tune,
)
from snnpipe.text import Configured

#: The stages that read data, their first argument.
READ_DATA: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    fn.__name__: fn for fn in (
        calibrate.calibrate, correct.correct_bias, correct.correct_potential, correct.correct_threshold,
        tune.correct_weights, balance.balance,
    )
})  # fmt: skip
_STAGES: tuple[Callable[..., Any], ...] = (
    trace.trace, fuse.fuse, instrument.instrument, replace.replace, td_rewrite.td_rewrite, to_snn.to_snn,
    to_snn.to_module, statistics.load_statistics,
)  # fmt: skip
_RECORDS: tuple[type, ...] = (
    neuron.Neuron, codebook.Codebook, threshold.Threshold, statistic.Statistic, codes.Code, encoding.Encoding,
    recipe.Recipe, waves.Wave,
)  # fmt: skip
_CHOICES: tuple[Callable[..., Any], ...] = (
    thresholds.fixed, waves.wave, encoding.constant, encoding.poisson, encoding.events, recipe.always, recipe.fades,
    recipe.part, recipe.fitted, recipe.correcting, selecting.at, selecting.of_op, selecting.such_that,
)  # fmt: skip

#: What may be called, by name.
CALLED: FrozenMap[str, Callable[..., Any]] = FrozenMap({
    **known.MAKERS, **{fn.__name__: fn for group in (_STAGES, _RECORDS, _CHOICES) for fn in group},
    "operand_site": functools.partial(Configured, operands.operand_site), "partial": functools.partial,
    "device": torch.device,
})  # fmt: skip
#: What may be named.
NAMED: FrozenMap[str, Any] = FrozenMap({
    **{name: kind for name, (kind, _) in torch_modules.MODULES.items()},
    **known.FUNCTIONS, **{fn.__name__: fn for fn in known.FUNCTIONS.values() if fn.__name__ not in known.FUNCTIONS},
    **{rule.__name__: rule for rule in fusion.FUSE_RULES if hasattr(rule, "__name__")},
    **codes.CODES, **CALLED, **READ_DATA, "SITE_RULES": sites.SITE_RULES,
    "TRANSFORMER_RULES": operands.TRANSFORMER_RULES, "BOTTLENECK_RULES": operands.BOTTLENECK_RULES,
    "FUSE_RULES": fusion.FUSE_RULES, "inf": math.inf, "nan": math.nan, "operand_site": operands.operand_site,
})  # fmt: skip
