"""Turn a trained PyTorch network into a spiking one by a pipeline of pure functions.

>>> import torch, snnpipe
>>> from snnpipe import pipe, trace, fuse, calibrate, to_snn
"""

from snnpipe import recipes
from snnpipe.analysis.activity import SpikeCount, spike_counts, spikes_per_neuron
from snnpipe.analysis.bill import Bill, energy
from snnpipe.analysis.bisection import Fault, first_fault
from snnpipe.analysis.check import Verdict, check
from snnpipe.analysis.cores import Limit
from snnpipe.analysis.costs import Account
from snnpipe.analysis.devices import CMOS_FLOAT32, CMOS_INT8, LOIHI, SPINNAKER_2, TRUENORTH, Device
from snnpipe.analysis.energy import account, latency
from snnpipe.analysis.evaluate import evaluate
from snnpipe.analysis.evaluation import Evaluation
from snnpipe.analysis.explain import explain
from snnpipe.analysis.explanation import Cause, Explanation, Finding, GradedOperator, SiteError
from snnpipe.analysis.report import report
from snnpipe.analysis.sensitivity import Sensitivity, SiteSensitivity, sensitivity
from snnpipe.analysis.suggest import Suggestion, Suggestions, suggest
from snnpipe.analysis.sweep import Sweep, sweep
from snnpipe.analysis.targets import AKIDA_1, LOIHI_2, SPECK_2E, Core, LayerLimits, Target
from snnpipe.analysis.verify import verify
from snnpipe.analysis.wires import Wire, wires
from snnpipe.codes import DIFFERENTIAL, RATE, TD, Clock, Code, geometric, low_pass, restarted
from snnpipe.embedding import embed
from snnpipe.errors import (
    CalibrationError,
    CompileWarning,
    GraphError,
    InputError,
    SiteWarning,
    SnnpipeError,
    StageError,
    ThresholdError,
    ThresholdWarning,
    ToleranceError,
    TraceError,
    UnsupportedError,
)
from snnpipe.exchange.checkpoints import checkpoint
from snnpipe.exchange.expressions import parse
from snnpipe.exchange.files import load, save
from snnpipe.exchange.nir.from_nir import from_nir
from snnpipe.exchange.nir.to_nir import to_nir
from snnpipe.exchange.onnx_file import to_onnx
from snnpipe.exchange.programs import ExportedSteps, to_exported, to_exported_step
from snnpipe.exchange.statistics import load_statistics, merge_statistics, save_statistics
from snnpipe.kernels.codebook import Codebook
from snnpipe.kernels.fused import compiled
from snnpipe.kernels.gaussian import threshold_iteration
from snnpipe.kernels.moving import ema
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n, st_bif
from snnpipe.kernels.neuron import Neuron, encoder, integrate_and_fire, leaky_integrate_and_fire, signed_memory
from snnpipe.kernels.optimal import local_threshold_balancing, mmse
from snnpipe.kernels.repair import repaired
from snnpipe.kernels.statistic import Statistic
from snnpipe.kernels.threshold import Threshold, maximum, percentile, scaled
from snnpipe.language.prompts import prompt
from snnpipe.language.reading import Perplexity, perplexity
from snnpipe.language.tracing import trace_decoder
from snnpipe.language.writing import generate
from snnpipe.ops.quantisers import QCFS
from snnpipe.rewrite import Declined, Rewrite
from snnpipe.rules.fusion import FUSE_RULES
from snnpipe.rules.operands import BOTTLENECK_RULES, TRANSFORMER_RULES
from snnpipe.rules.selecting import Selector, at, of_op, such_that
from snnpipe.rules.sites import SITE_RULES, every_fake_quantize_site
from snnpipe.runtime.confident import confident
from snnpipe.runtime.delay import readout_delay
from snnpipe.runtime.encoding import Encoding, constant, events, poisson
from snnpipe.runtime.network import SpikingNetwork
from snnpipe.runtime.stream import frames, stream
from snnpipe.runtime.until import Stopped
from snnpipe.stage import Pipeline, pipe, pipeline
from snnpipe.stages.absorb import absorb
from snnpipe.stages.balance import balance
from snnpipe.stages.calibrate import calibrate
from snnpipe.stages.correct import correct_bias, correct_potential, correct_threshold
from snnpipe.stages.fuse import fuse
from snnpipe.stages.instrument import instrument
from snnpipe.stages.matching import matching_levels
from snnpipe.stages.quantise import Rounding, quantise_weights, roundings
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
    "AKIDA_1", "BOTTLENECK_RULES", "CMOS_FLOAT32", "CMOS_INT8", "DIFFERENTIAL", "FUSE_RULES", "LOIHI", "LOIHI_2",
    "QCFS", "RATE", "SITE_RULES", "SPECK_2E", "SPINNAKER_2", "TD", "TRANSFORMER_RULES", "TRUENORTH", "Account", "Bill",
    "CalibrationError", "Cause", "Clock", "Code", "Codebook", "CompileWarning", "ConversionState", "Core", "Declined",
    "Device", "Encoding", "Evaluation", "Event", "Explanation", "ExportedSteps", "Fault", "Finding", "GradedOperator",
    "GraphError", "InputError", "LayerLimits", "Levels", "Limit", "Neuron", "Perplexity", "Pipeline", "Rewrite",
    "Rounding", "Selector", "Sensitivity", "Site", "SiteError", "SiteSensitivity", "SiteWarning", "SnnpipeError",
    "SpikeCount", "SpikingNetwork", "StageError", "Statistic", "Stopped", "Suggestion", "Suggestions", "Sweep",
    "Target", "Threshold", "ThresholdError", "ThresholdWarning", "ToleranceError", "TraceError", "UnsupportedError",
    "Verdict", "Wave", "Wire", "absorb", "account", "at", "balance", "burst", "calibrate", "cascade", "check",
    "checkpoint", "compiled", "confident", "constant", "correct_bias", "correct_potential", "correct_threshold",
    "correct_weights", "digest", "ema", "embed", "encoder", "energy", "evaluate", "events", "every_fake_quantize_site",
    "explain", "first_fault", "fixed", "frames", "from_nir", "fuse", "generate", "geometric", "graded", "group",
    "instrument", "integrate_and_fire", "latency", "leaky_integrate_and_fire", "load", "load_statistics",
    "local_threshold_balancing", "low_pass", "matching_levels", "maximum", "merge_statistics", "mmse", "of_op",
    "one_of_n", "parse", "percentile", "perplexity", "pipe", "pipeline", "poisson", "prompt", "quantise_weights",
    "readout_delay", "recipes", "repaired", "replace", "report", "restarted", "roundings", "save", "save_statistics",
    "scaled", "sensitivity", "signed_memory", "spike_counts", "spikes_per_neuron", "st_bif", "state_equal", "stream",
    "such_that", "suggest", "sweep", "td_rewrite", "threshold_iteration", "to_exported", "to_exported_step",
    "to_module", "to_nir", "to_onnx", "to_snn", "trace", "trace_decoder", "verify", "wave", "wires",
]  # fmt: skip
