"""Turn a trained PyTorch network into a spiking one by a pipeline of pure functions.

>>> import torch, snnpipe
>>> from snnpipe import pipe, trace, fuse, calibrate, to_snn
"""

from snnpipe import recipes
from snnpipe.analysis.activity import SpikeCount, spike_counts, spikes_per_neuron
from snnpipe.analysis.check import Verdict, check
from snnpipe.analysis.costs import Account
from snnpipe.analysis.energy import account, latency
from snnpipe.analysis.report import report
from snnpipe.analysis.sweep import Sweep, sweep
from snnpipe.codes import DIFFERENTIAL, RATE, TD, Clock, Code, geometric, low_pass, restarted
from snnpipe.errors import (
    CalibrationError,
    GraphError,
    InputError,
    SiteWarning,
    SnnpipeError,
    StageError,
    ThresholdError,
    ThresholdWarning,
    TraceError,
    UnsupportedError,
)
from snnpipe.exchange.expressions import parse
from snnpipe.exchange.files import load, save
from snnpipe.exchange.statistics import load_statistics, merge_statistics, save_statistics
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.moving import ema
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n, st_bif
from snnpipe.kernels.neuron import Neuron, encoder, integrate_and_fire, leaky_integrate_and_fire, signed_memory
from snnpipe.kernels.optimal import local_threshold_balancing, mmse
from snnpipe.kernels.repair import repaired
from snnpipe.kernels.statistic import Statistic
from snnpipe.kernels.threshold import Threshold, maximum, percentile, scaled
from snnpipe.ops.quantisers import QCFS
from snnpipe.rewrite import Declined, Rewrite
from snnpipe.rules.fusion import FUSE_RULES
from snnpipe.rules.operands import BOTTLENECK_RULES, TRANSFORMER_RULES
from snnpipe.rules.sites import SITE_RULES, every_fake_quantize_site
from snnpipe.runtime.delay import readout_delay
from snnpipe.runtime.encoding import Encoding, constant, events, poisson
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.stage import Pipeline, pipe, pipeline
from snnpipe.stages.balance import balance
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.correct import correct_bias, correct_potential, correct_threshold
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import instrument
from snnpipe.stages.matching import matching_levels
from snnpipe.stages.replace import replace
from snnpipe.stages.td_rewrite import td_rewrite
from snnpipe.stages.thresholds import fixed
from snnpipe.stages.to_snn import to_module, to_snn
from snnpipe.stages.trace import trace
from snnpipe.stages.tune import correct_weights
from snnpipe.state import ConversionState, Event, Levels, Site, digest, state_equal
from snnpipe.waves import Wave, wave

__version__ = "0.1.0"

__all__ = [
    "BOTTLENECK_RULES", "DIFFERENTIAL", "FUSE_RULES", "QCFS", "RATE", "SITE_RULES", "TD", "TRANSFORMER_RULES",
    "Account", "CalibrationError", "Clock", "Code", "Codebook", "ConversionState", "Declined", "Encoding", "Event",
    "GraphError", "InputError", "Levels", "Neuron", "Pipeline", "Rewrite", "Site", "SiteWarning", "SnnpipeError",
    "SpikeCount", "SpikingNetwork", "StageError", "Statistic", "Sweep", "Threshold", "ThresholdError",
    "ThresholdWarning", "TraceError", "UnsupportedError", "Verdict", "Wave", "account", "balance", "burst",
    "calibrate", "cascade", "check", "constant", "correct_bias", "correct_potential", "correct_threshold",
    "correct_weights", "digest", "ema", "encoder", "events", "every_fake_quantize_site", "fixed", "fuse",
    "geometric", "graded", "group", "instrument", "integrate_and_fire", "latency", "leaky_integrate_and_fire",
    "load", "load_statistics", "local_threshold_balancing", "low_pass", "matching_levels", "maximum",
    "merge_statistics", "mmse", "one_of_n", "parse", "percentile", "pipe", "pipeline", "poisson", "readout_delay",
    "recipes", "repaired", "replace", "report", "restarted", "save", "save_statistics", "scaled", "signed_memory",
    "spike_counts", "spikes_per_neuron", "st_bif", "state_equal", "sweep", "td_rewrite", "threshold_iteration",
    "to_module", "to_snn", "trace", "wave",
]  # fmt: skip
