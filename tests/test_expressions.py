"""A pipeline as text: what is written is what is read, and what is no text is refused."""

import functools
import pickle

import pytest
import torch
from torch import nn

import snnpipe
from snnpipe import (
    DIFFERENTIAL,
    TD,
    TRANSFORMER_RULES,
    Pipeline,
    SnnpipeError,
    StageError,
    calibrate,
    cascade,
    correct_bias,
    fixed,
    fuse,
    instrument,
    load,
    merge_statistics,
    parse,
    percentile,
    pipe,
    pipeline,
    recipes,
    replace,
    report,
    save,
    state_equal,
    td_rewrite,
    to_snn,
    trace,
)  # fmt: skip
from tests.helpers import assert_same, mlp, vectors

pytestmark = pytest.mark.filterwarnings("ignore::snnpipe.ThresholdWarning")
TEXT = (
    "trace | fuse | instrument(statistic=percentile(99.0)) | calibrate | replace(neuron=cascade(n=3)) | "
    "correct_bias(T=4, code=TD) | td_rewrite(code=TD) | to_snn"
)


def stages(x):
    return (
        trace, fuse, instrument(statistic=percentile(99.0)), calibrate([x]), replace(neuron=cascade(n=3)),
        correct_bias([x], T=4, code=TD), td_rewrite(code=TD), to_snn,
    )  # fmt: skip


def test_a_text_does_what_the_stages_do():
    model, x = mlp(), vectors()
    read, written = parse(TEXT, data=[x]), pipeline(*stages(x))
    assert str(read) == str(written) == TEXT
    assert_same(pipe(model, read)(x, T=4), pipe(model, *stages(x))(x, T=4))
    assert isinstance(read, Pipeline)
    assert parse(str(read), data=[x]).stages[:3] == read.stages[:3]


def test_the_text_of_what_was_done_is_kept(tmp_path):
    model, x = mlp(), vectors()
    snn = pipe(model, *stages(x))
    # with no batch norm there is nothing to fuse
    done = TEXT.replace("fuse | ", "")
    assert " | ".join(snn.made) == done
    assert report(snn).splitlines()[0] == f"pipeline: {done}"
    save(snn, tmp_path / "snn")
    assert load(tmp_path / "snn").made == snn.made == pickle.loads(pickle.dumps(snn)).made
    assert_same(parse(done, data=[x])(model)(x, T=4), snn(x, T=4))
    state = pipe(model, *stages(x)[:4])
    save(state, tmp_path / "state")
    assert load(tmp_path / "state").made == state.made
    made = recipes.snm()(model, [x], T=4)
    assert parse(" | ".join(made.snn.made)) == recipes.snm()


def test_what_has_no_text_says_so():
    x = vectors()
    measured = calibrate([x])(trace(mlp()))
    assert merge_statistics(measured)(measured).made == ("trace", "calibrate", "...")
    assert measured.edit(lambda gm: None).made == ("trace", "calibrate", "...")
    with pytest.raises(SnnpipeError, match=r"parse: \.\.\. is neither a literal, a name nor a call"):
        parse("trace | ... | replace")
    kept = trace(mlp(), check=x)
    assert kept.made == ("trace(check=check)",)
    assert state_equal(parse(kept.made[0], own={"check": x})(mlp_like(kept)), kept)


def mlp_like(state):
    """``mlp`` with the weights of a state."""
    model = mlp()
    model.load_state_dict(dict(state.params))
    return model


def test_other_spellings_of_thresholds():
    x = vectors()
    for text in ("trace | calibrate(99.9%)", "trace | calibrate(percentile(99.9))", "trace | calibrate('99.9%')"):
        made = parse(text, data=[x])
        assert made == pipeline(trace, instrument(statistic=percentile(99.9)), made.stages[2])
        assert str(parse(text, data=[x])) == "trace | instrument(statistic=percentile(99.9)) | calibrate"
    assert parse("replace(threshold=99.5%)") == replace(threshold=percentile(99.5))
    assert parse("instrument(statistic='max')") == instrument(statistic="max")


def half(theta):
    return 0.5 * theta


def test_what_is_ones_own_is_given_by_name():
    with pytest.raises(SnnpipeError, match=r'nothing here is called half; If it is your own, write parse\(text, own='):
        parse("replace(threshold=half)")
    mine = lambda site, summary: torch.tensor([1.0])  # noqa: E731
    assert parse("replace(threshold=half)", own={"half": mine}) == replace(threshold=mine)
    made = parse("replace(neuron=make(2))", own={"make": lambda n: cascade(n=n)})
    assert made == replace(neuron=cascade(n=2))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trace | fsue", "nothing here is called fsue; did you mean fuse? Or write parse(text, own="),
        ("replace(neuron=cascde(n=4))", "did you mean cascade?"),
        ("recipes.snn()", "did you mean recipes.snm?"),
        ("td_rewrite(code=DIFERENTIAL)", "did you mean DIFFERENTIAL?"),
        ("calibrate", "calibrate reads data, which no text holds; write parse(text, data=batches)"),
        ("trace |", "is no text of stages or values"),
        ("", "is no text of stages or values"),
        ("(" * 2000, "is no text of stages or values"),
        ("-" * 50000 + "1", "is no text of stages or values"),
        ("cascade(n=1e)", "is no text of stages or values"),
        ("cascade(n=0)", "parse: cascade: n must be a whole number of at least 1"),
        ("cascade(4)", "parse: cascade(*, n"),
        ("cascade(m=4)", "got an unexpected keyword argument 'm'"),
        ("fuse(rule=())", "fuse: has no option rule"),
        ("cascade(*(1,))", "unpacks its arguments"),
        ("cascade(**{'n': 1})", "unpacks its arguments"),
        ("trace.__globals__", "is neither a literal, a name nor a call"),
        ("().__class__", "is neither a literal, a name nor a call"),
        ("__import__('os').system('true')", "is neither"),
        ("__import__('os')", "nothing here is called __import__"),
        ("encode_init(1)", "encode_init cannot be called in a text; write its name alone"),
        ("[fuse for x in (1,)]", "is neither a literal, a name nor a call"),
        ("lambda: 1", "is neither a literal, a name nor a call"),
        ("1 if 2 else 3", "is neither a literal, a name nor a call"),
        ("(fuse := 3)", "is neither a literal, a name nor a call"),
        ("f'{fuse}'", "is neither a literal, a name nor a call"),
        ("x" * 100001, "a text has at most 100000 characters"),
        (3, "parse: text must be a string, got 3"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(text, words):
    with pytest.raises(SnnpipeError) as caught:
        parse(text)
    assert words in str(caught.value)


def test_pipelines_are_values():
    one, other = pipeline(trace, fuse), pipeline(trace, fuse)
    assert one == other
    assert hash(one) == hash(other)
    assert one != pipeline(trace)
    assert pipe(mlp(), one, replace(threshold=fixed(1.0)), to_snn).made[-1] == "to_snn"
    with pytest.raises(StageError, match="pipeline: stage 2 must be a function"):
        pipeline(trace, 3)
    with pytest.raises(StageError, match="stage 1 must be a function"):
        pipe(3, "trace")


def test_rules_are_read_back():
    assert parse("TRANSFORMER_RULES") is TRANSFORMER_RULES
    text = snnpipe.stage.text_of(instrument(rules=TRANSFORMER_RULES))
    assert parse(text) == instrument(rules=TRANSFORMER_RULES)
    assert hash(TRANSFORMER_RULES) == hash(parse(text).config["rules"])
    assert parse("trace(leaves=(LSTM,))") == trace(leaves=(nn.LSTM,))
    assert parse("td_rewrite(code=DIFFERENTIAL)") == td_rewrite(code=DIFFERENTIAL)
    assert isinstance(parse("partial(half, 1)", own={"half": half}), functools.partial)
