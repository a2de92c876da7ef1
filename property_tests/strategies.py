"""Strategies that draw whole networks, codes, event sequences and neurons.

The structure of a network is Hypothesis' choice, so it shrinks; its values come from one drawn seed, or lie on the
grid k/8 on which linear arithmetic is exact.
"""

from typing import Any

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

from property_tests.blocks import BLOCKS, WIDTH, Block, fill
from snnpipe import (
    DIFFERENTIAL,
    RATE,
    TD,
    Clock,
    Code,
    Neuron,
    geometric,
    integrate_and_fire,
    leaky_integrate_and_fire,
    low_pass,
    signed_memory,
)
from snnpipe.frozen import FrozenMap, leaves, map_leaves
from snnpipe.graph import Graph, Node, Param, Ref, redirecting
from snnpipe.kernels.multilevel import burst, cascade, graded, group, one_of_n, st_bif

HEADS = ("none", "classes", "softmax", "dict", "tuple")
LINEAR = tuple(name for name, kind in BLOCKS.items() if kind.linear)
RATE_BLOCKS = tuple(name for name, kind in BLOCKS.items() if kind.rate)


def few(share: float) -> settings:
    """A share of the profile's examples, for tests that are dear or many."""
    return settings(max_examples=max(3, int(settings().max_examples * share)))


class Net(nn.Module):
    """``blocks`` by name, called in ``order`` (a block may be called twice), each with an earlier value as its skip."""

    def __init__(
        self, image: bool, blocks: tuple[str, ...], order: tuple[int, ...], skips: tuple[int, ...], head: str,
        seed: int = 0, grid: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.recipe = (image, blocks, order, skips, head, seed, grid)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.body = nn.ModuleList(Block(BLOCKS[name].formula, image) for name in blocks)
            self.classes = nn.Linear(WIDTH, 2)
        self.order, self.skips, self.head, self.image = order, skips, head, image
        fill(self, seed, grid=grid)

    def forward(self, x: Tensor) -> Any:
        values = [x]
        for index, skip in zip(self.order, self.skips, strict=True):
            values.append(self.body[index](values[-1], values[-1 - skip % len(values)]))
        if self.head == "none":
            return values[-1]
        y = self.classes(values[-1].mean((2, 3)) if self.image else values[-1])
        if self.head == "softmax":
            return y.softmax(-1)
        return {"classes": y, "parts": [values[-1]]} if self.head == "dict" else (
            (y, values[-1]) if self.head == "tuple" else y
        )  # fmt: skip

    def __repr__(self) -> str:
        return f"Net{self.recipe}"


@st.composite
def nets(
    draw: Any, *, kinds: tuple[str, ...] = tuple(BLOCKS), heads: tuple[str, ...] = HEADS, grid: bool = False,
    max_blocks: int = 4,
) -> Net:  # fmt: skip
    """Any network of ``blocks.py``; of linear blocks and ``grid=True``, one whose arithmetic is exact."""
    blocks = tuple(draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=max_blocks)))
    again = draw(st.lists(st.integers(0, len(blocks) - 1), max_size=2))
    order = (*range(len(blocks)), *again)
    skips = tuple(draw(st.lists(st.integers(0, 3), min_size=len(order), max_size=len(order))))
    head = draw(st.sampled_from(heads))
    return Net(draw(st.booleans()), blocks, order, skips, head, draw(st.integers(0, 999)), grid)


def relu_nets(**options: Any) -> st.SearchStrategy[Net]:
    """Networks of linear maps, ReLU and max-pool of ReLU: what a rate code converges on, without graded units."""
    return nets(kinds=RATE_BLOCKS, **({"heads": ("none", "classes", "dict")} | options))


def linear_nets() -> st.SearchStrategy[Net]:
    """Affine networks with values on the grid k/8: their float64 arithmetic does not round."""
    return nets(kinds=LINEAR, heads=("none",), grid=True, max_blocks=3)


def inputs(net: Net, seed: int, *, batch: int = 2, grid: bool = False, dtype: torch.dtype | None = None) -> Tensor:
    """An input for ``net``: normal, or multiples of 1/8 up to 1."""
    g = torch.Generator().manual_seed(seed)
    shape = (batch, WIDTH, *[WIDTH, WIDTH] * net.image)
    drawn = torch.randint(-8, 9, shape, generator=g) / 8 if grid else torch.randn(shape, generator=g)
    return drawn.to(dtype or next(net.parameters()).dtype)


def codes() -> st.SearchStrategy[Code]:
    return st.one_of(
        st.sampled_from([TD, RATE, DIFFERENTIAL]),
        st.sampled_from([2.0, 1.3, 0.75]).map(geometric),
        st.sampled_from([1.5, 6.0]).map(low_pass),
        st.just(Code("leaky", lambda t: 0.5, lambda t: 1.0 + 1.0 / t)),  # one of the user's own
    )


def decode(events: Tensor, code: Code) -> Tensor:
    """The definition, by a loop: ``X_t = alpha_t X_{t-1} + a_t x_t``; all prefixes, stacked."""
    decoded = [code.a(1) * events[0]]
    for t in range(2, len(events) + 1):
        decoded.append(code.alpha(t) * decoded[-1] + code.a(t) * events[t - 1])
    return torch.stack(decoded)


@st.composite
def event_sequences(draw: Any, like: Tensor, code: Code, *, max_steps: int = 5, grid: bool = False) -> Tensor:
    """Events (T, ...) of unequal size at each step, T >= 1, some steps empty; worth about 1 when decoded."""
    steps = draw(st.integers(1, max_steps))
    g = torch.Generator().manual_seed(draw(st.integers(0, 999)))
    sizes = draw(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=steps, max_size=steps))
    shape = (steps, *like.shape)
    drawn = torch.randint(-8, 9, shape, generator=g).double() / 8 if grid else torch.randn(shape, generator=g).double()
    scale = torch.tensor([size / (1.0 if code.name == "RATE" else code.a(t)) for t, size in enumerate(sizes, 1)])
    return (drawn * scale.reshape(-1, *[1] * like.ndim)).to(like.dtype)


START = st.sampled_from([0.0, 0.25, 0.5])
FEW = st.integers(1, 4)

#: Every neuron with a codebook, by name, its sizes drawn; smallest events divide theta by powers of two.
CODEBOOKS: dict[str, st.SearchStrategy[Neuron]] = {
    "if": st.builds(lambda v: integrate_and_fire(v_init=v), START),
    "snm": st.builds(lambda v: signed_memory(v_init=v), START),
    "burst": st.builds(lambda n, v, b: burst(cap=n, two_sided=b, v_init=v), FEW, START, st.booleans()),
    "group": st.builds(lambda n, v: group(m=2**n, v_init=v), st.integers(0, 3), START),
    "one_of_n": st.builds(lambda n, v: one_of_n(n=n, v_init=v), FEW, st.sampled_from([0.0, 0.25])),
    "cascade": st.builds(lambda n, v, b: cascade(n=n, two_sided=b, v_init=v), FEW, START, st.booleans()),
    "st_bif": st.builds(lambda n, v: st_bif(levels=2**n, v_init=v), FEW, START),
    "graded": st.builds(lambda n, p, v: graded(levels=n, parts=p, v_init=v), st.sampled_from([None, 1, 7]),
                        st.sampled_from([1, 8]), START),
}  # fmt: skip


def soft(*, two_sided: bool = False) -> st.SearchStrategy[Neuron]:
    """Any neuron with a codebook and soft reset; the two-sided ones if asked for."""
    drawn = st.one_of(*CODEBOOKS.values())
    return drawn.filter(lambda neuron: neuron.two_sided) if two_sided else drawn


def neurons() -> st.SearchStrategy[Neuron]:
    """Any neuron of the library."""
    return st.one_of(
        soft(),
        st.builds(lambda v, r: integrate_and_fire(v_init=v, v_reset=r), START, st.sampled_from([0.0, 0.25])),
        st.builds(lambda v: leaky_integrate_and_fire(tau=4.0, v_init=v), START),
    )


def run(neuron: Neuron, currents: Tensor, theta: Tensor, code: Code, **facts: Any) -> tuple[Tensor, Tensor]:
    """Events and potentials of a neuron over (T, ...) currents; ``facts``: what it is told of its site."""
    options = {**neuron.options, **facts}
    state = neuron.init(theta, **options)
    out, potentials = [], []
    for t, z in enumerate(currents, 1):
        state, s = neuron.step(state, z, theta, code.clock(t), **options)
        out.append(s)
        potentials.append(state[0] if isinstance(state, tuple) else state)
    return torch.stack(out), torch.stack(potentials).expand_as(torch.stack(out))


def _exact_step(state: Any, z: Tensor, theta: Tensor, clock: Clock, *, f: Any, **_: Any) -> Any:
    before, said = state
    Z = clock.alpha * before + clock.a * z
    Y = f(Z)
    return (Z, Y), (Y - clock.alpha * said) / clock.a


def exact(f: Any) -> Neuron:
    """An encoder without quantisation: its events decode to ``f`` of its decoded input, at every step."""
    return Neuron(
        "exact", lambda theta, **_: (torch.zeros_like(theta), torch.zeros_like(theta)), _exact_step, "graded", {"f": f}
    )


def wire() -> Neuron:
    """An encoder that passes its events on: what stands before it must travel as events."""
    return Neuron("wire", lambda theta, **_: theta, lambda state, z, theta, clock, **_: (state, z), "graded")


#: Ops whose result is one floating-point tensor, so that an encoder may follow them.
ONE_TENSOR = frozenset(
    {"linear", "conv2d", "batch_norm", "add", "sub", "mul", "div", "matmul", "relu", "clamp", "cat", "pad", "where"}
)


def with_wires(graph: Graph, params: Any, after: Any) -> tuple[Graph, dict[str, Tensor]]:
    """The graph with a ``wire`` after each output and after the nodes named in ``after`` (a set, or ``None``).

    Everything before a wire must travel as events if it is linear; the function computed stays the same.
    """
    ends = {leaf.name for leaf in leaves(graph.output) if isinstance(leaf, Ref)}
    wired = ends | set(after or ())
    nodes: list[Node] = []
    moved: dict[str, str] = {}
    for node in graph:
        nodes.append(node if node.op == "input" else _moved(node, moved))
        if node.name in wired:
            made = f"{node.name}__wire"
            operands = {"input": Ref(node.name), "threshold": Param(f"{made}.threshold"), "neuron": wire()}
            nodes.append(Node(made, "encode", FrozenMap({**operands, "axis": None, "origin": ""})))
            moved[node.name] = made
    theta = torch.ones(1, dtype=next((p.dtype for p in params.values() if p.is_floating_point()), torch.float32))
    thresholds = {f"{name}.threshold": theta for name in moved.values()}
    return Graph(tuple(nodes), map_leaves(redirecting(moved), graph.output)), {**params, **thresholds}


def _moved(node: Node, moved: dict[str, str]) -> Node:
    return node.evolve(**map_leaves(redirecting(moved), dict(node.operands)))
