"""Values of options: what is wrong is refused on entry, with what was given and what to write."""

import math
import pickle
import pydoc
import re

import attrs
import numpy as np
import pytest
import torch
from torch import nn

import snnpipe
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    CalibrationError,
    Codebook,
    GraphError,
    InputError,
    Neuron,
    SnnpipeError,
    StageError,
    ThresholdError,
    balance,
    calibrate,
    cascade,
    correct_bias,
    correct_weights,
    digest,
    encoder,
    fixed,
    fuse,
    instrument,
    latency,
    maximum,
    mmse,
    percentile,
    pipe,
    recipes,
    replace,
    scaled,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from snnpipe.kernels.levels import whole
from snnpipe.kernels.threshold import as_threshold
from snnpipe.recipe import Recipe, always
from tests.helpers import assert_same, mlp, vectors

# a few samples do here; that they are few is said elsewhere
pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return mlp()


@pytest.fixture(scope="module")
def data():
    torch.manual_seed(1)
    return vectors()


@pytest.fixture(scope="module")
def state(model, data):
    return pipe(model, trace, calibrate([data]))


@pytest.fixture(scope="module")
def net(state):
    return to_snn(state)


def half(theta):
    return theta / 2


def one(t):
    return 1.0


def whole_batch(x, axis):
    return x


def merged(a, b):
    return a


#: What is written in the tables below.
NAMES = {name: getattr(snnpipe, name) for name in snnpipe.__all__} | {
    "snnpipe": snnpipe, "math": math, "np": np, "torch": torch, "nn": nn, "half": half, "one": one, "whole": whole,
    "whole_batch": whole_batch, "merged": merged, "Recipe": Recipe, "always": always,
}  # fmt: skip

#: what is written -> (error, words of the message); ``s``, ``n``, ``m``, ``x`` are a state, a network, a model, data
REFUSED = {
    # parentheses forgotten
    "n(x, T=4, encoding=poisson)": (InputError, "encoding .*got the function poisson; .*write poisson()"),
    "replace(neuron=integrate_and_fire)": (StageError, "replace: neuron .*write integrate_and_fire()"),
    "replace(neuron=leaky_integrate_and_fire)": (StageError, "write leaky_integrate_and_fire(tau=...)"),
    "replace(threshold=maximum)": (StageError, "replace: threshold .*write maximum()"),
    "replace(threshold=percentile)": (StageError, "write percentile(q=...)"),
    "replace(threshold=fixed)": (StageError, "write fixed(theta=...)"),
    "instrument(statistic=maximum)": (ThresholdError, "write maximum()"),
    "td_rewrite(code=low_pass)": (StageError, "td_rewrite: code .*write low_pass(tau=...)"),
    "balance([x], T=4, code=geometric)": (StageError, "write geometric(beta=...)"),
    "repaired(integrate_and_fire)": (SnnpipeError, "write integrate_and_fire()"),
    "ema(of=maximum)": (ThresholdError, "write maximum()"),
    "sweep(m, [recipes.snm], batches=[x], data=[(x, x[:, 0])])": (InputError, "write snm()"),
    "pipe(m, trace, recipes.opi())": (StageError, "pipe: stage 2 must be a function (state)"),
    "pipe(m, trace, maximum)": (StageError, "pipe: stage 2 .*write maximum()"),
    "Recipe('mine', maximum, integrate_and_fire())": (SnnpipeError, "Recipe: threshold .*write maximum()"),
    # strings and other things for objects
    "n(x, T=4, encoding='poisson')": (InputError, "got 'poisson'; write constant(), poisson() or events()"),
    "spike_counts(n, x, T=4, encoding='events')": (InputError, "got 'events'; write"),
    "replace(neuron='if')": (StageError, "got 'if'; write integrate_and_fire()"),
    "td_rewrite(code='TD!')": (StageError, "got 'TD!'; write RATE, TD"),
    "td_rewrite(code=None)": (StageError, "code must be a code, got None"),
    "encoder('if')": (SnnpipeError, "must be a Codebook, got 'if'"),
    "percentile('99.9')": (ThresholdError, "q is in percent, 0 < q <= 100, got '99.9'; write percentile(99.9)"),
    "Recipe('mine', always(maximum()), 'if')": (SnnpipeError, "Recipe: neuron must be a neuron, got 'if'"),
    # numbers as thresholds
    "replace(threshold=99.9)": (ThresholdError, "99.9.*write percentile(99.9)"),
    "instrument(statistic=99.9)": (ThresholdError, "99.9.*write percentile(99.9)"),
    "replace(threshold=1.5)": (ThresholdError, "write percentile(1.5) .*scaled(1.5)"),
    "replace(threshold=np.float32(2.0))": (ThresholdError, "write percentile(2)"),
    "replace(threshold=math.inf)": (ThresholdError, "a share of the maximum, 0 < k <= 1"),
    "replace(threshold=0)": (ThresholdError, "0 < k <= 1"),
    # not a number, infinite, negative, huge
    "integrate_and_fire(v_init=math.nan)": (SnnpipeError, "integrate_and_fire: v_init .*got nan"),
    "integrate_and_fire(v_init='a')": (SnnpipeError, "v_init .*got 'a'"),
    "integrate_and_fire(v_reset=math.inf)": (SnnpipeError, "v_reset .*got inf"),
    "cascade(n=100)": (SnnpipeError, "cascade: n .*got 100; the most is 24"),
    "cascade(n=10**30)": (SnnpipeError, "the most is 24"),
    "cascade(n=10**5000)": (SnnpipeError, "got an int; the most is 24"),
    "one_of_n(n=25)": (SnnpipeError, "the most is 24"),
    "recipes.hmt(n=25)": (SnnpipeError, "hmt: n .*the most is 24"),
    "burst(cap=2**24 + 1)": (SnnpipeError, "the most is 16777216"),
    "st_bif(levels=0)": (SnnpipeError, "st_bif: levels must be a whole number of at least 1, got 0"),
    "st_bif(levels=3, low=1)": (SnnpipeError, "low must be a whole number of at most 0"),
    "graded(levels=True)": (SnnpipeError, "got True"),
    "geometric(-1.0)": (SnnpipeError, "geometric: beta must be a positive number.*got -1.0"),
    "geometric(10**30)": (SnnpipeError, "at most 16777216"),
    "geometric(2.0).clock(1100)": (InputError, "geometric(2): a(1100) is 0.0.*fewer steps"),
    "low_pass(1)": (SnnpipeError, "tau must be greater than 1 step, got 1"),
    "low_pass(1e30)": (SnnpipeError, "got 1e+30"),
    "restarted(0.5)": (SnnpipeError, "tau is a number of steps"),
    "scaled(math.inf)": (ThresholdError, "k must be a positive number, got inf"),
    "fixed(-1)": (ThresholdError, "theta must be a positive number, got -1"),
    "fixed(math.nan)": (ThresholdError, "got nan"),
    "ema(0)": (ThresholdError, "momentum must lie in 0 < momentum <= 1, got 0"),
    "mmse(2**24, levels=2)": (ThresholdError, "levels * T must be at most 16777216, got 2 * 16777216"),
    "threshold_iteration(4, iterations=-1)": (ThresholdError, "iterations must be a whole number of at least 1"),
    "repaired(signed_memory(), clip=math.nan)": (SnnpipeError, "repaired: clip .*got nan"),
    "repaired(signed_memory(), how='both')": (SnnpipeError, """how is "carry" or "mask", got 'both'"""),
    "leaky_integrate_and_fire(tau=math.inf)": (SnnpipeError, "greater than 1 step, got inf"),
    "recipes.fading(share=2)": (SnnpipeError, "fading: share is a share of the steps"),
    "recipes.offset(tau=0)": (SnnpipeError, "offset: tau .*at least 1, got 0"),
    "correct_weights([x], T=4, lr=math.inf)": (StageError, "correct_weights: lr .*got inf"),
    "correct_bias([x], T=4, iterations=0)": (StageError, "correct_bias: iterations .*got 0"),
    # numbers of steps
    "n(x, T=True)": (InputError, "SpikingNetwork: T is the number of time steps, .*got True"),
    "n(x, T=10**30)": (InputError, "the most is 16777216"),
    "n(x, T=torch.ones(1))": (InputError, "got a tensor of shape (1,)"),
    "n(x, T=4, delay=-1)": (InputError, "delay is a number of steps .*got -1"),
    "n(x, T=4, readout='mean')": (InputError, """readout is "last" or "every", got 'mean'"""),
    "latency(n, 0)": (InputError, "latency: T is the number of time steps"),
    "recipes.opi()(m, [x], T=0)": (InputError, "Recipe: T is the number of time steps"),
    "sweep(m, ['opi'], batches=[x], data=[(x, x[:, 0])], T=None)": (InputError, "sweep: T must be a tuple .*got None"),
    "sweep(m, ['opi'], batches=[x], data=[(x, x[:, 0])], T=4)": (InputError, "got 4; write (4,)"),
    "sweep(m, ['opi'], batches=[x], data=[(x, x[:, 0])], T=[4, 0])": (InputError, "sweep: T must be"),
    # wrong objects
    "latency(m, 3)": (InputError, "latency: snn must be a converted network, got a Sequential; write pipe("),
    "account(None, x, T=2)": (InputError, "account: snn must be a converted network, got None"),
    "account(n, x[:0], T=2)": (InputError, "account: input input is empty"),
    "readout_delay(n, x[:0], T=8)": (InputError, "readout_delay: input input is empty"),
    "account(recipes.snm()(m, [x], T=2), x, T=2)": (InputError, "recipe's answer take .snn"),
    "spike_counts(s, x, T=2)": (InputError, "spike_counts: snn must be a converted network"),
    "spikes_per_neuron([])": (SnnpipeError, "counts must be a dictionary"),
    "spikes_per_neuron({'a': 3})": (SnnpipeError, "what spike_counts found"),
    "report(None)": (StageError, "report: subject must be a ConversionState or a SpikingNetwork, got None"),
    "check(None)": (StageError, "check: model must be a torch.nn.Module, got None"),
    "check(n, example=x)": (StageError, "check: example: options are for trace, which a SpikingNetwork is past"),
    "check(m, target='speck')": (StageError, "target must be a Target, or None, got 'speck'; write check("),
    "trace(n)": (StageError, "got a SpikingNetwork: the model is converted already"),
    "trace(m, leaves=nn.Linear)": (StageError, "leaves must be a tuple of module classes, .*write (Linear,)"),
    "trace(m, inputs='x')": (StageError, "inputs must be a tuple of the names of inputs.*write ('x',)"),
    "trace(m, constants=3)": (StageError, "constants must be a dictionary, got 3"),
    "trace(m, unsafe_share='no')": (StageError, "unsafe_share must be True or False, got 'no'"),
    "digest(m)": (StageError, "digest: state must be a ConversionState, got a Sequential"),
    "s.edit(None)": (StageError, "fn must be a function (graph_module), got None"),
    "n.step(None, x)": (InputError, "step: state must be a state, got None; write snn.step(snn.init(x), x_t)"),
    "SpikingNetwork(None, {}, RATE)": (SnnpipeError, "graph must be a graph, got None"),
    "SpikingNetwork(n.graph, {}, RATE)": (InputError, "params has no 0.bias"),
    "recipes.snm()(None, [x], T=4)": (InputError, "model must be a torch.nn.Module, got None"),
    "recipes.snm()(m, x, T=4)": (CalibrationError, "batches must be an iterable of batches, got a tensor"),
    "recipes.named(3)": (InputError, "must be a recipe, got 3; write recipes.snm()"),
    "sweep(m, 'opi', batches=[x], data=[(x, x[:, 0])])": (InputError, "write ['opi']"),
    "sweep(m, ['opi'], batches=[x], data=[])": (InputError, "data is a list or a loader of batches .*got []"),
    "sweep(m, ['opi'], batches=[x], data=[(x, 3)])": (InputError, "data is a list or a loader of batches (x, labels)"),
    "calibrate({'x': x})": (CalibrationError, "write calibrate(loader), or calibrate([x])"),
    "calibrate(x.numpy())": (CalibrationError, "write calibrate(loader), or calibrate([x])"),
    "calibrate([x], device='gpu')": (CalibrationError, "device must be a device.*got 'gpu'"),
    "calibrate([x], forward=lambda m: m)": (CalibrationError, "forward must be a function (model, batch).*takes (m)"),
    "poisson(7)": (InputError, "generator must be a torch.Generator.*got 7"),
    # options of stages
    "fuse(rules=None)": (StageError, "fuse: rules must be a tuple of functions (node, graph, params), got None"),
    "fuse(rules=snnpipe.FUSE_RULES[0])": (StageError, "write (fold_into_convolution,)"),
    "instrument(rules='x')": (StageError, "instrument: rules must be a tuple .*got 'x'"),
    "replace(rules=lambda site, neuron: None)": (StageError, "write (rule,)"),
    "pipe(s, replace(rules=(lambda site, neuron: 'if',)))": (StageError, "at site 1 must be a neuron, got 'if'"),
    "pipe(s, replace(threshold=lambda site, summary: 'much'))": (ThresholdError, "gave 'much' for site 1"),
    "pipe(m, trace, fuse(rules=(lambda node, graph, params: node,)))": (GraphError, "a Rewrite, a Declined or None"),
    "pipe(m, trace, None)": (StageError, "pipe: stage 2 must be a function (state), got None"),
    "calibrate([x])(max_batches=0)": (CalibrationError, "max_batches must be a whole number"),
    "correct_bias([x], T=4)(per='layer')": (StageError, """per is "channel" or "neuron", got 'layer'"""),
    # records of one's own
    "Neuron('mine', half, 3)": (SnnpipeError, "Neuron: step must be a function (state, z, theta, clock, ...), got 3"),
    "Neuron('mine', half, half)": (SnnpipeError, "it takes (theta)"),
    "Neuron('mine', half, lambda v, z, theta, clock: (v, z), unit='float')": (SnnpipeError, "got 'float'"),
    "Codebook('mine', whole, 'binary', 1, 3)": (SnnpipeError, "low must be a number of at most 0, got 1"),
    "Codebook('mine', whole, 'binary', 0, 3, parts=0)": (SnnpipeError, "parts must be a whole number"),
    "Code('mine', 1.0, one)": (SnnpipeError, "alpha must be a function (t), got 1.0"),
    "Code('mine', one, lambda t: 0.0).clock(1)": (InputError, "a(1) is 0.0, it must be a number, positive and finite"),
    "Code('mine', one, lambda t: 'a').clock(1)": (InputError, "a(1) is 'a'"),
    "Encoding('mine', 3)": (InputError, "encode must be a function (x, clock), or None, got 3"),
    "Threshold('mine', None, half)": (ThresholdError, "statistic must be a Statistic, got None"),
    "Threshold('mine', maximum().statistic, half, per='pixel')": (ThresholdError, "got 'pixel'"),
    "Statistic('mine', half, half)": (SnnpipeError, "summarise must be a function (x, axis)"),
    "Recipe('mine', maximum(), integrate_and_fire())": (SnnpipeError, "Recipe: threshold .*write always(maximum())"),
    "Recipe('mine', always(maximum()), integrate_and_fire(), RATE)": (SnnpipeError, "code .*write always(RATE)"),
    "Recipe('mine', always(3), integrate_and_fire())(m, [x], T=4)": (StageError, "mine: threshold(4) must be"),
    "Recipe('mine', always(maximum()), integrate_and_fire(), schedule='both')": (InputError, "Recipe: schedule"),
    "at('1').use(nn.ReLU())": (StageError, "use: choice must be .*got a ReLU; it takes (input"),
    "calibrate([x], device='meta')": (CalibrationError, "meta cannot be used (it holds no numbers); there is cpu"),
    "calibrate([x], device='cuda:99')": (CalibrationError, "cuda:99 cannot be used .*there is cpu"),
    "correct_bias([x], T=4, device='gpu')": (StageError, "gpu cannot be used .*there is cpu"),
    "QCFS(levels=0)": (ThresholdError, "QCFS: levels must be a whole number of at least 1, got 0"),
    "QCFS(theta=math.inf)": (ThresholdError, "QCFS: theta must be positive, got inf"),
    "QCFS(theta='a')": (ThresholdError, "got 'a'"),
    "QCFS(axis=1)": (ThresholdError, "axis is counted from the end.*got 1"),
}  # fmt: skip


@pytest.mark.parametrize("written", REFUSED)
def test_what_is_wrong_is_refused_with_what_to_write(written, state, net, model, data):
    error, words = REFUSED[written]
    pattern = ".*".join(re.escape(part) for part in words.split(".*"))
    with pytest.raises(error, match=f"(?i){pattern}"):
        eval(written, NAMES | {"s": state, "n": net, "m": model, "x": data})


@pytest.mark.parametrize("T", [np.int64(4), np.uint8(4), torch.tensor(4), np.array(4)], ids=lambda T: type(T).__name__)
def test_numbers_of_numpy_and_torch_are_numbers(T, net, data, model):
    assert_same(net(data, T=T), net(data, T=4))
    assert_same(recipes.opi()(model, [data], T=T)(data), recipes.opi()(model, [data], T=4)(data))
    assert mmse(T) == mmse(4)
    assert cascade(n=T) == cascade(n=4)
    assert percentile(np.float64(99.0)) == percentile(torch.tensor(99.0)) == percentile(99.0)
    assert as_threshold(np.float32(0.5)) == scaled(0.5)
    assert latency(net, T) == 4


@pytest.mark.parametrize("code", [TD, RATE, DIFFERENTIAL], ids=str)
def test_codes_without_options_may_be_named(code, state, data):
    named = pipe(state, replace, td_rewrite(code=code.name), to_snn)
    assert named.code is code
    assert_same(named(data, T=3), pipe(state, replace, td_rewrite(code=code), to_snn)(data, T=3))
    assert repr(code) == code.name


def test_a_wrong_number_of_arguments_is_pythons_to_refuse(net, data):
    for call in (lambda: percentile(), lambda: maximum("layer"), lambda: recipes.snm(3), lambda: net(data),
                 lambda: cascade(m=3), lambda: correct_bias([data])):  # fmt: skip
        with pytest.raises(TypeError, match="argument"):
            call()


X = torch.zeros(8, 3)
#: Expressions; ``repr`` of what they make is the expression again.
EXPRESSIONS = (
    "integrate_and_fire()", "integrate_and_fire(v_init=0.0, v_reset=0.0)", "leaky_integrate_and_fire(tau=2.0)",
    "signed_memory()", "burst(cap=3)", "group()", "one_of_n(n=3)", "cascade(n=8)", "st_bif(levels=7, low=-8)",
    "graded(levels=7)", "repaired(integrate_and_fire(), how='mask')",
    "encoder(Codebook('three', whole, 'multi-level', 0, 3))", "Codebook('three', whole, 'multi-level', 0, 3, parts=2)",
    "maximum()", "maximum(per='layer')", "percentile(99.9)", "scaled(0.8)",
    "ema(0.2, of=percentile(99.0), per='layer')", "mmse(8, levels=3)",
    "threshold_iteration(4)", "fixed(2)", "poisson()", "constant()", "events()", "RATE",
    "geometric(2.0)", "low_pass(8.0)", "restarted(4)", "Code('mine', one, one)", "Encoding('mine', None)",
    "recipes.snm()", "recipes.hmt(n=3)", "recipes.fading(share=0.5)", "recipes.calibration_advanced(epochs=1)",
    "Recipe('mine', always(maximum()), cascade(), code=always(TD))",
    "fuse(rules=())", "instrument(statistic=percentile(99.0))",
    "replace(neuron=cascade(n=8), threshold=percentile(99.5))", "td_rewrite(code=geometric(2.0))",
    "Statistic('mine', whole_batch, merged)", "Threshold('mine', Statistic('mine', whole_batch, merged), half)",
)  # fmt: skip


@pytest.mark.parametrize("text", EXPRESSIONS)
def test_repr_is_the_expression(text):
    made = eval(text, dict(NAMES))
    assert repr(made) == text
    assert "0x" not in str(made)
    again = pickle.loads(pickle.dumps(made)) if not text.startswith(("fuse", "instrument", "replace", "td")) else made
    assert repr(again) == text


@pytest.mark.parametrize("name", recipes.RECIPES)
def test_every_recipe_is_an_expression(name):
    made = recipes.RECIPES[name]()
    assert repr(made) == f"recipes.{name}()"
    assert pickle.loads(pickle.dumps(made)) == made


def test_repr_of_stages_with_data():
    assert repr(calibrate([X])) == "calibrate([<Tensor (8, 3)>])"
    assert repr(calibrate([X])(max_batches=3)) == "calibrate([<Tensor (8, 3)>], max_batches=3)"
    assert repr(correct_bias([X], T=4, code=TD)) == "correct_bias([<Tensor (8, 3)>], T=4, code=TD)"
    assert repr(correct_weights(iter([X]), T=4)) == "correct_weights(<list_iterator>, T=4)"
    assert repr(trace(example=X, leaves=[nn.Linear])) == "trace(example=<Tensor (8, 3)>, leaves=(Linear,))"
    assert repr(trace()) == "trace()"
    assert repr(balance([X], T=4)) == "balance([<Tensor (8, 3)>], T=4)"


def test_repr_tells_what_was_changed():
    changed = attrs.evolve(cascade(n=3), wires=9)
    assert repr(changed).startswith("Neuron('cascade', encode_init, encode, unit='multi-level'")
    assert "wires=9" in repr(changed)
    assert repr(attrs.evolve(maximum(), per="layer")).startswith("Threshold('maximum', Statistic('extrema', ")


@pytest.mark.parametrize("stage", [fuse, instrument, replace, td_rewrite, to_snn], ids=lambda stage: stage.__name__)
def test_help_has_no_addresses(stage):
    text = pydoc.plain(pydoc.render_doc(stage))
    assert " at 0x" not in text
    assert stage.__doc__.splitlines()[0] in text
    assert (stage is not replace) or "neuron: 'Neuron' = integrate_and_fire()" in text


def test_a_digest_tells_neurons_apart_that_look_alike(state):
    def mine(step):
        return replace(neuron=Neuron("mine", half, step), threshold=fixed(1.0))(state)

    def make():
        def step(v, z, theta, clock):
            return v, z

        return step

    assert repr(Neuron("mine", half, make())) == repr(Neuron("mine", half, make()))
    assert digest(mine(make())) != digest(mine(make()))
    books = (Codebook("mine", whole, "multi-level", 0, high) for high in (3, 4))
    a, b = (digest(replace(neuron=encoder(book), threshold=fixed(1.0))(state)) for book in books)
    assert a != b
    same = [digest(replace(neuron=cascade(n=n), threshold=fixed(1.0))(state)) for n in (4, np.int64(4))]
    assert same[0] == same[1]


def test_thresholds_too_small_for_the_weights_are_still_positive():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2))
    tiny = torch.tensor([1e-300], dtype=torch.float64)
    snn = pipe(model, trace, replace(threshold=lambda site, summary: tiny), to_snn)
    assert snn(torch.ones(2, 3), T=4).isfinite().all()
    with pytest.raises(ThresholdError, match="positive and finite"):
        pipe(model, trace, replace(threshold=fixed(1e-300)))


def test_what_one_needs_to_write_ones_own_is_public():
    assert {"Statistic", "FUSE_RULES", "Rewrite", "Declined", "recipes"} <= set(snnpipe.__all__)
