"""Language models that write: the cache is a function, and what is written is what the whole text says."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from snnpipe import (
    TRANSFORMER_RULES,
    CalibrationError,
    InputError,
    StageError,
    TraceError,
    calibrate,
    cascade,
    check,
    generate,
    instrument,
    load,
    perplexity,
    pipe,
    prompt,
    recipes,
    replace,
    report,
    save,
    td_rewrite,
    to_snn,
    trace,
    trace_decoder,
)
from tests.helpers import assert_close, bound
from tests.language_models import Causal, Forgets, Recurrent, causal

IDS = torch.randint(0, 19, (2, 9), generator=torch.Generator().manual_seed(1))
MASK = torch.ones_like(IDS)
MASK[1, :3] = 0
KEEP = "ignore::snnpipe.ThresholdWarning"


@pytest.fixture(scope="module")
def model():
    return causal()


@pytest.fixture(scope="module")
def state(model):
    return trace_decoder(model, example=IDS)


def written(model, ids, mask, tokens):
    """Greedy, the whole text read anew for each token."""
    for _ in range(tokens):
        with torch.no_grad():
            chosen = model(ids, attention_mask=mask).logits[:, -1].argmax(-1, keepdim=True)
        ids, mask = torch.cat([ids, chosen], 1), torch.cat([mask, torch.ones_like(chosen)], 1)
    return ids


def test_a_decoder_keeps_the_names_and_the_model(model, state):
    before = {key: value.clone() for key, value in model.state_dict().items()}
    assert set(state.params) >= set(model.state_dict())
    assert "forward" not in vars(model)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert [node["name"] for node in state.graph.inputs] == ["input_ids", "attention_mask", "position_ids", "past"]
    assert [node.get("static", False) for node in state.graph.inputs] == [False, False, False, True]
    assert "with its cache" in report(state)


def test_what_is_written_is_what_the_whole_text_says(model, state):
    want = written(model, IDS, MASK, 12)
    assert not torch.equal(want[0, 9:], want[1, 9:])
    assert len(want[0, 9:].unique()) > 2
    td = pipe(state, td_rewrite, to_snn)
    assert torch.equal(generate(state, IDS, attention_mask=MASK, tokens=12), want)
    assert torch.equal(generate(td, IDS, attention_mask=MASK, tokens=12, T=3), want)
    one = written(model, IDS[:1, :1], MASK[:1, :1], 5)  # a text of one token, a batch of one
    assert torch.equal(generate(td, IDS[:1, :1], tokens=5, T=1), one)


def test_a_window_that_is_longer_than_the_example_is_kept():
    model = causal(window=4)
    state = trace_decoder(model, example=IDS)
    assert torch.equal(generate(state, IDS, tokens=20), written(model, IDS, torch.ones_like(IDS), 20))


@pytest.mark.filterwarnings(KEEP)
@pytest.mark.parametrize("schedule", ["layer", "step"])
def test_a_spiking_decoder_reads_in_pieces_what_it_reads_at_once(schedule):
    """In a layer schedule a neuron sees decoded values alone, and those that are kept are the same."""
    state = trace_decoder(causal().double(), example=IDS)
    data = [prompt(state, IDS, MASK)]
    snn = pipe(
        state, instrument(rules=TRANSFORMER_RULES), calibrate(data), replace(neuron=cascade(n=3)), to_snn
    )
    assert len(snn.neurons()) > 8
    at_once = snn(**data[0], T=8, schedule=schedule)["logits"]
    past, pieces = data[0]["past"], []
    for begin, end in ((0, 5), (5, 6), (6, 9)):
        given = prompt(snn, IDS, MASK)
        part = {name: given[name][:, begin:end] for name in ("input_ids", "position_ids")}
        found = snn(**part, attention_mask=MASK[:, :end], past=past, T=8, schedule=schedule)
        past, pieces = found["past"], [*pieces, found["logits"]]
    counts = MASK.bool()
    got, want = torch.cat(pieces, 1)[counts], at_once[counts]
    if schedule == "layer":
        assert_close(got, want)
    else:
        assert not torch.equal(got, want)  # that is why the layer schedule is the one to compare with


def test_a_text_ends_and_choices_are_the_users(state):
    first = generate(state, IDS, tokens=1)[:, -1]
    found = generate(state, IDS, tokens=5, end=int(first[0]))
    assert (found[0, 9:] == first[0]).all()
    both = generate(state, IDS[:1].repeat(2, 1), tokens=5, end=int(first[0]))
    assert both.shape == (2, 10)  # all have ended
    worst = generate(state, IDS, tokens=2, choose=lambda logits: logits.argmin(-1))
    assert not torch.equal(worst, generate(state, IDS, tokens=2))
    with pytest.raises(InputError, match=r"choose\(logits\) gives a token id for each text, \(2,\), got torch.float32"):
        generate(state, IDS, tokens=1, choose=lambda logits: logits)


def test_perplexity_is_that_of_the_tokens_foreseen(model, state):
    with torch.no_grad():
        logits = model(IDS, attention_mask=MASK).logits
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).double(), IDS[:, 1:].flatten(), reduction="none").view(2, 8)
    want = losses[(MASK[:, 1:] & MASK[:, :-1]).bool()]
    found = perplexity(state, [(IDS, MASK)])
    assert found.tokens == 8 + 5
    assert found.loss == pytest.approx(float(want.sum()), rel=bound(torch.float32))
    assert found.value == pytest.approx(math.exp(float(want.mean())), rel=bound(torch.float32))
    apart = perplexity(state, [IDS[:1], (IDS[1:], MASK[1:]), {"input_ids": IDS[:1]}])
    assert apart.tokens == 21
    assert "of 21 tokens" in str(apart)
    td = pipe(state, td_rewrite, to_snn)
    assert perplexity(td, [(IDS, MASK)], T=2).loss == pytest.approx(found.loss, rel=bound(torch.float32))
    with pytest.raises(InputError, match="no text of two tokens"):
        perplexity(state, [IDS[:, :1]])


@pytest.mark.filterwarnings(KEEP)
def test_a_recipe_writes_and_a_file_keeps_it(state, tmp_path):
    made = recipes.cascade_mmse(n=3)(state, [prompt(state, IDS)], T=4)
    text = generate(made, IDS, tokens=4)
    save(made, tmp_path / "decoder.safetensors")
    assert torch.equal(generate(load(tmp_path / "decoder.safetensors"), IDS, tokens=4), text)
    assert perplexity(made, [IDS]).tokens == 16
    with pytest.raises(InputError, match="what a recipe gave has its own T"):
        generate(made, IDS, tokens=1, T=3)


def test_a_network_of_any_length_refuses_other_heads(state):
    td = pipe(state, td_rewrite, to_snn)
    given = prompt(td, IDS)
    wrong = tuple((key[:, :1], value) for key, value in given["past"])
    with pytest.raises(InputError, match=r"past\[0\]\[0\] has shape \(2, 1, 0, 8\).*traced for \(B, 2, any, 8\)"):
        td(**given | {"past": wrong}, T=1)


def test_what_is_no_decoder_is_refused(state, model):
    td = pipe(state, td_rewrite, to_snn)
    plain = pipe(nn.Linear(2, 2), trace, td_rewrite, to_snn)
    with pytest.raises(InputError, match=r"this one takes input\. Write pipe\(model, trace_decoder"):
        generate(plain, IDS, tokens=1, T=1)
    with pytest.raises(InputError, match=r"write generate\(snn, \.\.\., T=8\)"):
        generate(td, IDS, tokens=1)
    with pytest.raises(InputError, match="a state runs as the ANN, without steps"):
        perplexity(state, [IDS], T=4)
    with pytest.raises(InputError, match=r"write perplexity\(network, \[input_ids\], \.\.\.\)"):
        perplexity(state, IDS)
    with pytest.raises(InputError, match=r"an index is beyond the table .*input_ids up to 9999"):
        generate(td, torch.full((1, 2), 9999), tokens=1, T=1)
    for wrong in ({"input_ids": IDS}, IDS):
        with pytest.raises(CalibrationError, match=r"write prompt\(network, input_ids"):
            pipe(state, instrument(rules=TRANSFORMER_RULES), calibrate([wrong]))
    with pytest.raises(InputError, match="padded on the left"):
        prompt(td, IDS, MASK.flip(1))
    with pytest.raises(InputError, match=r"attention_mask is \(2, 8\), and input_ids \(2, 9\)"):
        prompt(td, IDS, MASK[:, 1:])
    with pytest.raises(InputError, match="input_ids are token ids, whole numbers"):
        prompt(td, IDS.float())
    with pytest.raises(StageError, match=r"must be a torch\.nn\.Module"):
        trace_decoder(3, example=IDS)


def test_a_cache_that_is_wrong_is_found():
    with pytest.raises(TraceError, match="with its cache computes something else than without"):
        trace_decoder(causal(kind=Forgets), example=IDS)
    with pytest.raises(TraceError, match=r"keeps \[1\] of 13 tokens, not each|keeps \[1\] of \d+ tokens"):
        trace_decoder(Recurrent().eval(), example=IDS)
    with pytest.raises(TraceError, match=r"Linear.forward takes no cache \(cache or past_key_values, and use_cache\)"):
        trace_decoder(nn.Linear(2, 2), example=IDS)
    with pytest.raises(TraceError, match="reads no encoder; leave out memory="):
        trace_decoder(causal(), example=IDS, memory=torch.zeros(2, 3, 4))


def test_a_decoder_is_taken_as_it_is_in_evaluation():
    model = causal().train()
    assert isinstance(model, Causal)
    assert pipe(model, trace_decoder(example=IDS)).params
    assert model.training


def test_weights_may_be_shared_or_not_there():
    model = causal()
    state = trace_decoder(model, example=IDS, unsafe_share=True)
    assert state.params["head.weight"].data_ptr() == model.head.weight.data_ptr()
    with torch.no_grad():
        model.head.weight.mul_(2)
    with pytest.raises(StageError, match="written to or moved"):
        td_rewrite(state)
    with torch.device("meta"):
        empty = Causal().eval()
    verdict = check(trace_decoder(empty, example=IDS))
    assert verdict.ok
    with pytest.raises(StageError, match="meta"):
        pipe(trace_decoder(empty, example=IDS), td_rewrite, to_snn)
