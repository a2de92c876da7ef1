"""One table, one law: every row of the operator table against brute force, under every code.

(a) The groups a row claims really are jointly linear.  (b) The op, lifted alone, gives f of the decoded inputs at
every step, whichever of its operands are events and whichever do not change.
"""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from property_tests import tolerances
from property_tests.examples import EXAMPLES, T, tensor
from property_tests.strategies import codes, decode, event_sequences, few, with_wires
from snnpipe import RATE, TD, ConversionState, td_rewrite, to_snn
from snnpipe.frozen import FrozenMap, freeze, leaves, map_leaves, thaw
from snnpipe.graph import Graph, Node, Param, Ref
from snnpipe.kernels.temporal import zip_leaves
from snnpipe.ops.lift import Form, place
from snnpipe.ops.table import OPS, TABLE

SHAPE_OPS = tuple(op.name for op in TABLE if op.shape_only and not op.groups)
OUTPUTS = None  # put encoders at the outputs only
NUMBERS = ("size", "dim", "numel", "attribute")  # give numbers, not tensors
ALL = [op.name for op in TABLE if op.name in EXAMPLES]
CASES = [(name, k) for name in ALL for k in range(len(EXAMPLES[name]))]


def compute(name: str, operands: Any) -> Any:
    args, kwargs = OPS[name].signature.call_arguments(FrozenMap(operands))
    return OPS[name].fn(*thaw(args), **thaw(kwargs))


def test_every_row_has_an_example():
    assert [op.name for op in TABLE if op.name not in EXAMPLES] == []
    assert [name for name in EXAMPLES if name not in OPS] == []


def test_every_group_names_operands_of_its_row():
    for op in TABLE:
        assert all(group <= set(op.signature.names) for group in op.groups), op.name
        assert op.shape_only <= set(op.signature.names), op.name


#: Operands that mean 1, not 0, when they are left out: a group that wants them is not claimed then.
LEFT_OUT_IS_ONE = {("batch_norm", "weight")}
GROUPS = [
    (name, k, group) for name, k in CASES for group in OPS[name].groups
    if group & EXAMPLES[name][k].keys()
    and not any((name, operand) in LEFT_OUT_IS_ONE and operand not in EXAMPLES[name][k] for operand in group)
]  # fmt: skip


def _label(value: Any) -> str:
    return "+".join(sorted(value)) if isinstance(value, frozenset) else str(value)


@pytest.mark.parametrize(("name", "k", "group"), GROUPS, ids=_label)
@given(seed=st.integers(0, 999), p=st.integers(-8, 8), q=st.integers(-8, 8))
def test_claimed_groups_are_jointly_linear(name, k, group, seed, p, q):
    g = torch.Generator().manual_seed(seed)
    first = map_leaves(lambda v: tensor(v, g) if isinstance(v, T) else v, EXAMPLES[name][k])

    def another(v: Any) -> Any:
        drawn = torch.randn(v.shape if isinstance(v, Tensor) else (), generator=g, dtype=torch.float64)
        return drawn if isinstance(v, Tensor) else drawn.item() if isinstance(v, int | float) else v

    second = {key: map_leaves(another, v) if key in group else v for key, v in first.items()}

    def mixed(u: Any, v: Any) -> Any:
        return p * u + q * v if isinstance(u, Tensor | int | float) and not isinstance(u, bool) else u

    combined = {key: zip_leaves(mixed, v, second[key]) if key in group else v for key, v in first.items()}
    found, parts = compute(name, combined), (compute(name, first), compute(name, second))
    scale = (abs(p) + abs(q) + 1) * (1 + max(leaf.abs().max().item() for leaf in leaves(parts)))
    terms = sum(leaf.numel() for leaf in leaves(first) if isinstance(leaf, Tensor))  # of the longest possible sum
    bound = 4 * torch.finfo(torch.float64).eps * terms * scale
    for a, b, c in zip(leaves(found), leaves(parts[0]), leaves(parts[1]), strict=True):
        assert (a - (p * b + q * c)).abs().max() <= bound


@st.composite
def lifted_ops(draw: Any, name: str, k: int) -> tuple[Graph, dict[str, Tensor], Any]:
    """The op alone as a graph: some tensors are inputs, the others parameters; and the op as a function of inputs."""
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    places = [leaf for leaf in leaves(EXAMPLES[name][k]) if isinstance(leaf, T)]
    temporal = draw(st.lists(st.booleans(), min_size=len(places), max_size=len(places)).filter(any))
    flags, inputs, params = iter(temporal), [], {}

    def operand(leaf: Any) -> Any:
        if isinstance(leaf, T) and next(flags):
            inputs.append(tensor(leaf, g))
            return Ref(f"x{len(inputs)}")
        if isinstance(leaf, T | Tensor):
            params[f"p{len(params)}"] = tensor(leaf, g) if isinstance(leaf, T) else leaf
            return Param(f"p{len(params) - 1}")
        return leaf

    operands = map_leaves(operand, EXAMPLES[name][k])
    nodes = [Node(f"x{i}", "input", FrozenMap(name=f"x{i}")) for i in range(1, len(inputs) + 1)]
    nodes.append(Node("y", name, FrozenMap({key: freeze(value) for key, value in operands.items()})))

    def fn(*given: Tensor) -> Any:
        values = {f"x{i}": value for i, value in enumerate(given, 1)}
        known = values | params
        name_of = lambda leaf: leaf.name if isinstance(leaf, Ref) else leaf.key  # noqa: E731
        given_operands = map_leaves(lambda v: known[name_of(v)] if isinstance(v, Ref | Param) else v, operands)
        return compute(name, given_operands)

    count = len(fn(*inputs)) if isinstance(fn(*inputs), tuple) and name not in SHAPE_OPS else 0
    nodes += [Node(f"y{i}", "getitem", FrozenMap(a=Ref("y"), index=i)) for i in range(count)]
    output = tuple(Ref(f"y{i}") for i in range(count)) or Ref("y")
    return Graph(tuple(nodes), output), params, (fn, inputs)


@pytest.mark.parametrize(("name", "k"), CASES)
@few(0.4)
@given(data=st.data())
def test_lifted_alone_it_is_exact_at_every_step(name, k, data):
    graph, params, (fn, like) = data.draw(lifted_ops(name, k))
    code = data.draw(codes())
    if name not in NUMBERS and data.draw(st.booleans(), label="followed by an encoder"):
        graph, params = with_wires(graph, params, OUTPUTS)
    events = [data.draw(event_sequences(x, code)) for x in like]
    steps = min(map(len, events))
    events = [x[:steps] for x in events]
    state = ConversionState(graph, FrozenMap(params))
    snn = to_snn(td_rewrite(code=code)(state))
    found = leaves(snn.sequence(*events))
    decoded = [decode(x, code) for x in events]
    bound = tolerances.temporal(fn, code, *decoded)
    expected = [leaves(fn(*(D[t] for D in decoded))) for t in range(steps)]
    for i, y in enumerate(found):
        if not isinstance(y, Tensor) or not y.is_floating_point():
            continue
        Y = decode(y, code)
        largest = max(now[i].abs().max().item() for now in expected)  # what does not move is rounded too: as events
        bound += 2 * (steps + 1) * torch.finfo(torch.float64).eps * largest  # and twice a step when it is decoded
        for t in range(steps):
            assert (Y[t] - expected[t][i]).abs().max() <= bound, (name, str(code), t)


@pytest.mark.parametrize("name", SHAPE_OPS)
def test_what_only_the_shape_decides_is_static(name):
    operands = map_leaves(lambda v: Ref("x") if isinstance(v, T) else v, EXAMPLES[name][0])
    graph = Graph((Node("x", "input", FrozenMap(name="x")), Node("y", name, FrozenMap(operands))), Ref("y"))
    assert place(graph, temporal_inputs=True)["y"].form is Form.STATIC


def test_a_static_partner_is_injected_once_under_td_and_always_under_rate():
    """The classic silent bug is a bias at every step; this is what the law says instead."""
    x, y = Node("x1", "input", FrozenMap(name="x1")), Node("y", "add", FrozenMap(a=Ref("x1"), b=0.5))
    graph, params = with_wires(Graph((x, y), Ref("y")), {}, OUTPUTS)
    state = ConversionState(graph, FrozenMap(params))
    zeros = torch.zeros(2, 2)
    assert to_snn(td_rewrite(code=TD)(state)).sequence(zeros)[:, 0].tolist() == [0.5, 0.0]
    assert to_snn(td_rewrite(code=RATE)(state)).sequence(zeros)[:, 0].tolist() == [0.5, 0.5]
