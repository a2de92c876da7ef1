"""An op over a whole time sequence is the op at each step, unchanged: every row, whichever operands have time."""

import warnings
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from property_tests.examples import EXAMPLES, T, tensor
from property_tests.ranks import ROWS, cases, subsets, taken
from property_tests.strategies import few
from snnpipe.frozen import FrozenMap, freeze, leaves, map_leaves, thaw
from snnpipe.ops.sequence import WAYS, Hole, OverTime
from snnpipe.ops.table import OPS, TABLE

CASES = [(op.name, k) for op in TABLE if not op.shape_only for k in range(len(EXAMPLES[op.name]))]


def holes(operands: Any) -> tuple[FrozenMap[str, Any], list[T]]:
    shapes: list[T] = []

    def hole(leaf: Any) -> Any:
        if not isinstance(leaf, T):
            return leaf
        shapes.append(leaf)
        return Hole(len(shapes) - 1)

    return FrozenMap({name: freeze(map_leaves(hole, tree)) for name, tree in operands.items()}), shapes


def at_each_step(name: str, operands: Any, values: list[Tensor], timed: tuple[bool, ...], steps: int) -> list[Any]:
    results = []
    for t in range(steps):
        now = [value[t].clone() if has else value for value, has in zip(values, timed, strict=True)]
        filled = {key: map_leaves(lambda v: now[v.k] if isinstance(v, Hole) else v, x) for key, x in operands.items()}  # noqa: B023
        args, kwargs = OPS[name].signature.call_arguments(FrozenMap(filled))
        results.append(OPS[name].fn(*thaw(args), **thaw(kwargs)))
    return results


@pytest.mark.parametrize(("name", "k"), CASES)
@given(seed=st.integers(0, 999))
@few(0.2)
def test_over_time_is_at_each_step(name, k, seed):
    operands, shapes = holes(EXAMPLES[name][k])
    g = torch.Generator().manual_seed(seed)
    for timed, steps in product(product((False, True), repeat=len(shapes)), (1, 3)):
        if not any(timed):
            continue
        values = [tensor(T(*(steps,) * has, *s.shape), g) for s, has in zip(shapes, timed, strict=True)]
        found = leaves(OverTime(OPS[name], operands, timed)(*values))
        expected = [leaves(result) for result in at_each_step(name, operands, values, timed, steps)]
        terms = 4 * sum(value.numel() for value in values)  # of the longest sum an op can make of them
        for i, y in enumerate(found):
            assert y.shape == (steps, *expected[0][i].shape), timed
            for t in range(steps):
                scale = 1 + expected[t][i].abs().max()
                assert (y[t] - expected[t][i]).abs().max() <= terms * torch.finfo(torch.float64).eps * scale, timed


def steps_or_none(name: str, operands: Any, values: list[Tensor], timed: tuple[bool, ...], steps: int) -> Any:
    """What the loop gives, ``None`` where torch takes no such call."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return [leaves(result) for result in at_each_step(name, operands, values, timed, steps)]
    except (RuntimeError, IndexError, TypeError, ValueError, AttributeError, ArithmeticError):
        return None


@pytest.mark.parametrize("name", ROWS)
def test_values_of_every_rank_in_every_spelling(name):
    """The row's way, held against the loop by itself, and what is made of it: values, shapes and dtypes."""
    g, steps, seen = torch.Generator().manual_seed(0), 3, set()
    for case in cases(name):
        operands, shapes = holes(case)
        for timed in subsets(len(shapes)):
            values = [
                tensor(T(*(steps,) * has, *s.shape, dtype=s.dtype), g) for s, has in zip(shapes, timed, strict=True)
            ]
            expected = steps_or_none(name, operands, values, timed, steps)
            if expected is None or any(len(now) != len(expected[0]) for now in expected):
                continue
            if not all(isinstance(leaf, Tensor) for now in expected for leaf in now):
                continue
            if any(now[i].shape != expected[0][i].shape for now in expected for i in range(len(now))):
                continue  # no sequence can hold it
            op = OverTime(OPS[name], operands, timed)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found, by_way = op(*values), op.at_once(*values)
            for result in (found,) if by_way is NotImplemented else (found, by_way):
                agree(leaves(result), expected, values, (case, timed))
            seen |= {len(s.shape) for s, has in zip(shapes, timed, strict=True) if has}
    assert seen == taken(name), name


def agree(found: list[Any], expected: list[list[Tensor]], values: list[Tensor], told: Any) -> None:
    """As in ``test_over_time_is_at_each_step``, for values that may be infinite, or no floats."""
    terms = 4 * sum(value.numel() for value in values)
    assert len(found) == len(expected[0]), told
    for i, y in enumerate(found):
        assert (y.shape, y.dtype) == ((len(expected), *expected[0][i].shape), expected[0][i].dtype), told
        want = torch.stack([now[i] for now in expected]).double()
        eps = torch.finfo(y.dtype).eps if y.is_floating_point() else 0.0
        scale = 1 + max((leaf.abs().max().item() for leaf in (want[want.isfinite()],) if leaf.numel()), default=0.0)
        assert torch.allclose(y.double(), want, rtol=0.0, atol=terms * eps * scale, equal_nan=True), told


#: Rows that are left to ``vmap``: rare, or of a meaning that depends on more than their axes.
GENERAL = {"set_item", "field", "child", "filled_like", "expand_as", "view_as", "call"}


def test_every_other_row_has_a_way_that_fits_its_first_example():
    """Otherwise a row could fall back to ``vmap`` for ever and nobody would see."""
    assert {op.name for op in TABLE if op.name not in WAYS and not op.shape_only} <= GENERAL
    for name, way in WAYS.items():
        operands, shapes = holes(EXAMPLES[name][0])
        first = OPS[name].signature.names[0]
        temporal = [leaf.k for leaf in leaves(operands.get(first, ())) if isinstance(leaf, Hole)] or [0]
        if name == "scaled_dot_product_attention":
            temporal = [0, 1, 2]
        values = [torch.ones((2,) * (k in temporal) + s.shape).double() for k, s in enumerate(shapes)]
        op = OverTime(OPS[name], operands, tuple(k in temporal for k in range(len(shapes))))
        assert op.at_once(*values) is not NotImplemented, name
        assert way is WAYS[name]
