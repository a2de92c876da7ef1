"""Whatever can be said is read back as it was said; whatever is written at random is read or refused."""

import contextlib
import string

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import snnpipe
from snnpipe import SnnpipeError, parse, pipeline, recipes
from snnpipe.exchange.vocabulary import NAMED
from snnpipe.text import text_of

X = torch.zeros(2, 3)
DATA = [X]


def made(fn, **options):
    """Calls of a function, with some of its options."""
    return st.fixed_dictionaries({}, optional=options).map(lambda given: fn(**given))


def whole(most=20, least=1):
    return st.integers(least, most)


shares = st.floats(0.01, 1.0)
flags = st.booleans()
potentials = st.floats(-2.0, 2.0)
per = st.sampled_from(["channel", "layer", "neuron"])
taus = st.floats(1.01, 100.0)
codes = st.one_of(
    st.sampled_from([snnpipe.RATE, snnpipe.TD, snnpipe.DIFFERENTIAL]), st.floats(1.1, 8.0).map(snnpipe.geometric),
    taus.map(snnpipe.low_pass), whole().map(snnpipe.restarted),
)  # fmt: skip
schedules = st.one_of(st.sampled_from(["step", "layer"]), whole().map(snnpipe.wave))
plain = st.one_of(
    made(snnpipe.integrate_and_fire, v_init=potentials, v_reset=st.none() | potentials),
    st.builds(lambda tau, v: snnpipe.leaky_integrate_and_fire(tau=tau, v_init=v), taus, potentials),
    made(snnpipe.signed_memory, v_init=potentials),
    made(snnpipe.burst, cap=whole(), two_sided=flags, v_init=potentials),
    made(snnpipe.group, m=whole(), v_init=potentials), made(snnpipe.one_of_n, n=whole(), v_init=potentials),
    made(snnpipe.cascade, n=whole(), two_sided=flags, v_init=potentials),
    made(snnpipe.st_bif, levels=whole(), low=whole(0, -9), parts=whole(), v_init=potentials),
    made(snnpipe.graded, levels=st.none() | whole(), parts=whole(), v_init=potentials),
)  # fmt: skip
neurons = plain | st.builds(
    lambda of, how, clip: snnpipe.repaired(of, how=how, clip=clip), plain, st.sampled_from(["carry", "mask"]), taus
)
percents = st.floats(1.0, 100.0)
rules = st.one_of(
    made(snnpipe.maximum, per=per), st.builds(lambda k, p: snnpipe.scaled(k, per=p), shares, per),
    st.builds(lambda q, n, s, p: snnpipe.percentile(q, nonzero=n, shared=s, per=p), percents, flags, flags, per),
    st.builds(lambda T, n, p: snnpipe.mmse(T, levels=n, per=p), whole(), whole(), per),
    st.builds(lambda T, n, two: snnpipe.threshold_iteration(T, levels=n, two_sided=two), whole(), whole(), flags),
    made(snnpipe.local_threshold_balancing, iterations=whole(), lr=shares),
)  # fmt: skip
thresholds = rules | made(snnpipe.ema, momentum=shares, of=st.none() | rules, per=st.none() | per)
methods = st.one_of(
    st.sampled_from(sorted(recipes.RECIPES)).map(lambda name: recipes.RECIPES[name]()),
    made(recipes.ltb, iterations=whole()), made(recipes.fading, share=shares), made(recipes.srp, tau=whole()),
    made(recipes.hmt, n=whole()), made(recipes.cascade_mmse, n=whole(), code=codes),
    made(recipes.wave, K=whole(), neuron=neurons, share=st.none() | shares),
    made(recipes.progressive, levels=whole(), beta=st.floats(1.1, 8.0)),
)  # fmt: skip
_CORRECTING = {"code": codes, "schedule": schedules, "max_batches": st.none() | whole()}


def correcting(fn, **options):
    return st.builds(
        lambda T, given: fn(DATA, T=T, **given), whole(),
        st.fixed_dictionaries({}, optional=_CORRECTING | options),
    )  # fmt: skip


sites = st.sampled_from([snnpipe.SITE_RULES, snnpipe.TRANSFORMER_RULES, snnpipe.BOTTLENECK_RULES, ()])
stages = st.one_of(
    st.sampled_from([snnpipe.trace, snnpipe.fuse, snnpipe.replace, snnpipe.td_rewrite, snnpipe.to_snn]),
    st.just(snnpipe.to_module), made(snnpipe.to_snn, unsafe_share=flags),
    made(snnpipe.trace, inputs=st.just(("x", "y")), static=st.just(("y",)), unsafe_share=flags,
         leaves=st.just((torch.nn.LSTM,)), constants=st.just({"flag": True, "n": 3})),
    made(snnpipe.fuse, rules=st.sampled_from([(), snnpipe.FUSE_RULES])),
    made(snnpipe.instrument, rules=sites, statistic=thresholds),
    made(lambda **given: snnpipe.calibrate(DATA, **given), mask=st.just("mask"), max_batches=whole(), progress=flags,
         device=st.just("cpu")),
    made(snnpipe.replace, neuron=neurons, threshold=thresholds | shares.map(snnpipe.fixed),
         rules=st.just((snnpipe.matching_levels,))),
    correcting(snnpipe.correct_bias, per=st.sampled_from(["channel", "neuron"]), iterations=whole(),
               device=st.just("cpu")),
    correcting(snnpipe.correct_potential, code=st.just(snnpipe.TD)), correcting(snnpipe.correct_threshold),
    correcting(snnpipe.correct_weights, epochs=whole(), lr=shares, batch_size=whole()),
    st.builds(lambda T: snnpipe.balance(DATA, T=T), whole()),
    made(snnpipe.td_rewrite, code=codes),
)  # fmt: skip


@settings(max_examples=4 * settings().max_examples)
@given(st.one_of(neurons, thresholds, codes, methods))
def test_values_are_read_back(value):
    again = parse(repr(value))
    assert again == value
    assert repr(again) == repr(value)


@settings(max_examples=4 * settings().max_examples)
@given(st.lists(stages, min_size=2, max_size=6))
def test_pipelines_are_read_back(found):
    whole = pipeline(*found)
    again = parse(str(whole), data=DATA)
    assert again == whole
    assert str(again) == str(whole)
    assert [text_of(stage) for stage in again.stages] == [text_of(stage) for stage in found]


_WORDS = st.one_of(
    st.sampled_from(sorted(NAMED)), st.sampled_from([*"()|,=.[]{}*-+:'", "99%", "n=", "lambda", "...", "0", "1e400"]),
    st.text(string.printable, max_size=5), st.integers().map(str),
)  # fmt: skip


@settings(max_examples=8 * settings().max_examples)
@given(st.lists(_WORDS, max_size=12).map("".join))
def test_any_text_is_read_or_refused(text):
    with contextlib.suppress(SnnpipeError):
        parse(text, data=DATA)
