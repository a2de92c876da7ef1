"""Reading NIR graphs that others wrote, and refusing what has no exact counterpart."""

import pytest
import torch
import torch.nn.functional as F

from property_tests import nir_reference as reference
from snnpipe import UnsupportedError, from_nir, pipe, report, to_module, to_snn

nir = pytest.importorskip("nir")
np = pytest.importorskip("numpy")


def f32(*values):
    return np.array(values, dtype=np.float32)


def weights(*shape):
    return torch.randint(-8, 9, shape).float().numpy() / 8


def conv(i, o, k=3, groups=1, size=(6, 6)):
    return nir.Conv2d(size, weights(o, i // groups, k, k), 1, 1, 1, groups, weights(o))


def graph_of(edges, **nodes):
    return nir.NIRGraph(nodes, edges)


def line(*nodes):
    return nir.NIRGraph.from_list(*nodes)


def soft(threshold, theta, **more):
    """Affine, a neuron with soft reset, and its events into a second ``Affine``."""
    nodes = {
        "input": nir.Input([3]), "fc": nir.Affine(weights(4, 3), weights(4)), "v": nir.I(np.ones(4, np.float32)),
        "spike": nir.Threshold(threshold), "back": nir.Scale(-theta), "head": nir.Affine(weights(2, 4), weights(2)),
        "output": nir.Output([2]),
    } | more  # fmt: skip
    edges = [("input", "fc"), ("fc", "v"), ("back", "v"), ("v", "spike"), ("spike", "back"), ("head", "output")]
    return nodes, edges


def spikes_alike(graph, x, T=9, dt=1.0):
    """The state that is read runs as NIR's equations say."""
    _, outputs = reference.run(graph, x, T, dt)
    snn = to_snn(from_nir(graph, dt=dt))
    y = snn(x, T=T)
    assert (y - outputs.mean(0)).abs().max() <= 8 * T * torch.finfo(y.dtype).eps * (1 + y.abs().max())
    return snn


def test_an_ann_is_a_state_that_becomes_a_module():
    graph = line(
        nir.Input([2, 6, 6]), conv(2, 4), nir.AvgPool2d(f32(2, 2).astype(int), np.array([2, 2]), np.array([0, 0])),
        nir.Flatten([4, 3, 3], 0, -1), nir.Linear(weights(5, 36)), nir.Scale(weights(5)),
    )  # fmt: skip
    x = torch.rand(3, 2, 6, 6)
    kernel, head, scale = (graph.nodes[name] for name in ("conv2d", "linear", "scale"))
    y = F.conv2d(x, torch.tensor(kernel.weight), torch.tensor(kernel.bias), padding=1)
    want = F.linear(F.avg_pool2d(y, 2).flatten(1), torch.tensor(head.weight)) * torch.tensor(scale.scale)
    state = from_nir(graph)
    assert torch.equal(pipe(state, to_module)(x), want)
    assert "NIR" in report(state)


def test_spikes_as_they_are_and_times_numbers():
    threshold, theta = f32(0.5, 1.0, 0.75, 2.0), f32(0.5, 1.0, 1.5, 2.0)
    nodes, edges = soft(threshold, theta)
    x = torch.randint(0, 9, (5, 3)) / 8
    plain = graph_of([*edges, ("spike", "head")], **nodes)
    assert "div" in str(from_nir(plain).graph)
    spikes_alike(plain, x)
    scaled = graph_of([*edges, ("spike", "event"), ("event", "head")], **nodes, event=nir.Scale(theta))
    assert "div" not in str(from_nir(scaled).graph)
    spikes_alike(scaled, x)
    nodes["event"] = nir.Scale(f32(3, 1, 2, 1))
    spikes_alike(graph_of([*edges, ("spike", "event"), ("event", "head")], **nodes), x)


def test_a_threshold_of_another_kind_is_a_charge():
    """Any threshold is one of levels that begin at another potential, each neuron at its own."""
    nodes, edges = soft(f32(0.25, 0.5, 0.75, 1.0), f32(0.5, 0.75, 1.0, 1.0))
    snn = spikes_alike(graph_of([*edges, ("spike", "head")], **nodes), torch.randint(0, 9, (5, 3)) / 8)
    assert snn.neurons()["v__if0"].charge is not None


def test_hard_reset_grouped_and_double():
    graph = nir.NIRGraph({
        "input": nir.Input([2, 6, 6]), "a": nir.Conv2d(None, weights(4, 1, 3, 3), 1, 1, 1, 2, weights(4)),
        "if": nir.IF(np.full((4, 6, 6), 4.0), np.ones((4, 6, 6))),
        "pool": nir.SumPool2d(*map(np.array, ([2, 2], [2, 2], [0, 0]))),
        "flat": nir.Flatten([4, 3, 3], 0), "fc": nir.Affine(weights(3, 36), weights(3)), "output": nir.Output([3]),
    }, [("input", "a"), ("a", "if"), ("if", "pool"), ("pool", "flat"), ("flat", "fc"), ("fc", "output")])  # fmt: skip
    snn = spikes_alike(graph, torch.rand(2, 2, 6, 6, dtype=torch.float64), dt=0.5)
    assert {p.dtype for p in snn.state_dict().values()} == {torch.float64}
    assert list(snn.neurons()) == ["n_if__if0"]


def test_branches_are_sums():
    graph = graph_of(
        [("input", "a"), ("input", "b"), ("a", "s"), ("b", "s"), ("input", "s"), ("s", "output")],
        input=nir.Input([3]), a=nir.Linear(weights(3, 3)), b=nir.Linear(weights(3, 3)), s=nir.Scale(f32(1, 2, 3)),
        output=nir.Output([3]),
    )  # fmt: skip
    x = torch.randint(0, 9, (5, 3)) / 8
    a, b = (torch.tensor(graph.nodes[name].weight) for name in "ab")
    assert torch.equal(pipe(graph, from_nir, to_module)(x), (x @ a.T + x @ b.T + x) * torch.tensor([1.0, 2.0, 3.0]))


def lif():
    ones = np.ones(3, np.float32)
    return line(nir.Input([3]), nir.LIF(ones, ones, ones, ones, ones), nir.Delay(ones), nir.Output([3]))


def with_reader(kind):
    nodes, edges = soft(f32(1, 1, 1, 1), f32(1, 1, 1, 1))
    return graph_of([*edges, ("v", "x"), ("x", "head")], **nodes, x=kind)


def with_second(first, second, *read):
    one = f32(1, 1, 1, 1)
    nodes, edges = soft(first, one, two=nir.Threshold(second), back2=nir.Scale(-one))
    edges += [("v", "two"), ("two", "back2"), ("back2", "v"), *((name, "head") for name in read)]
    return graph_of(edges, **nodes)


def uneven():
    return with_second(f32(1, 1, 1, 1), f32(3, 3, 3, 3), "spike", "two")


def half_read():
    return with_second(*(np.nextafter(f32(k, k, k, k), f32(0)) for k in (1, 2)), "spike")


def loop():
    return graph_of(
        [("input", "a"), ("a", "b"), ("b", "a"), ("b", "output")], input=nir.Input([3]), a=nir.Scale(f32(1, 1, 1)),
        b=nir.Scale(f32(1, 1, 1)), output=nir.Output([3]),
    )  # fmt: skip


def elsewhere():
    graph = line(nir.Input([3]), nir.Scale(f32(1, 1, 1)), nir.Output([3]))
    graph.edges.append(("nowhere", "output"))
    return graph


def resting():
    ones = np.ones(3, np.float32)
    return line(nir.Input([3]), nir.IF(ones, ones, -ones), nir.Output([3]))


def not_a_number():
    return line(nir.Input([3]), nir.Scale(f32(1, np.nan, 1)), nir.Output([3]))


def positive_back():
    nodes, edges = soft(f32(1, 1, 1, 1), f32(-1, -1, -1, -1))
    return graph_of([*edges, ("spike", "head")], **nodes)


@pytest.mark.parametrize(("build", "words"), [
    (lif, "(?s)LIF has no exact counterpart"), (lambda: with_reader(nir.Scale(f32(2, 2, 2, 2))), "than -1"),
    (lambda: with_reader(nir.I(np.ones(4, np.float32))), "something else than thresholds"),
    (uneven, "those of evenly spaced levels"), (half_read, "some of the thresholds"),
    (loop, "reads what depends on it"), (elsewhere, "not there: nowhere"), (resting, "another potential than 0"),
    (not_a_number, "holds NaN"), (positive_back, "do not all take the same"),
])  # fmt: skip
def test_what_cannot_be_read(build, words):
    with pytest.raises(UnsupportedError, match=words):
        from_nir(build())


@pytest.mark.parametrize("value", [None, "network.nir", 3, nir])
def test_what_is_no_graph(value):
    with pytest.raises(UnsupportedError, match=r"from_nir\(nir.read\(path\)\)"):
        from_nir(value)
