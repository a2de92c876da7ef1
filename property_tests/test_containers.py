"""Taking containers apart and building them again gives what was there, whatever is inside what."""

from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from types import SimpleNamespace

from hypothesis import given
from hypothesis import strategies as st

from snnpipe.containers import packed
from snnpipe.frozen import freeze, leaves, map_leaves, thaw
from snnpipe.kernels.temporal import zip_leaves
from tests.containers import Defined, Frozen, Output, OwnDict, OwnList, Pair, Record, Registered, RegisteredRecord

OF_TWO = (Pair, Record, Frozen, Defined, Output, Registered, RegisteredRecord)
OF_LISTS = (list, tuple, OwnList, UserList, deque)
OF_DICTS = (dict, OwnDict, OrderedDict, UserDict, lambda d: defaultdict(int, d), lambda d: SimpleNamespace(**d))


def containers(children):
    return st.one_of(
        st.builds(lambda cls, a, b: cls(a, b), st.sampled_from(OF_TWO), children, children),
        st.builds(lambda cls, items: cls(items), st.sampled_from(OF_LISTS), st.lists(children, max_size=3)),
        st.builds(
            lambda cls, items: cls(items),
            st.sampled_from(OF_DICTS),
            st.dictionaries(st.sampled_from("abc"), children, max_size=3),
        ),
    )


TREES = st.recursive(st.integers(-9, 9), containers, max_leaves=12)


def shown(value):
    """All there is to a value: classes and contents."""
    if isinstance(value, Registered):
        return ("Registered", shown(value.a), shown(value.b))
    if isinstance(value, Output):
        return ("Output", [(key, shown(item)) for key, item in value.items()], [shown(v) for v in vars(value).values()])
    if isinstance(value, dict | UserDict):
        return (type(value).__name__, [(key, shown(item)) for key, item in value.items()])
    if isinstance(value, list | tuple | deque | UserList):
        return (type(value).__name__, [shown(item) for item in value])
    fields = ("a", "b", "note") if isinstance(value, Frozen) else ("a", "b")
    held = {name: getattr(value, name) for name in fields} if isinstance(value, Frozen | Defined) else None
    held = held if held is not None else getattr(value, "__dict__", None)
    return value if held is None else (type(value).__name__, {key: shown(item) for key, item in held.items()})


@given(TREES)
def test_what_is_frozen_thaws_to_itself(tree):
    assert shown(thaw(freeze(packed(tree)))) == shown(tree)


@given(TREES)
def test_mapping_goes_through_every_leaf_and_changes_nothing_else(tree):
    def more(leaf):
        return leaf + 1 if isinstance(leaf, int) else leaf

    def less(leaf):
        return leaf - 1 if isinstance(leaf, int) else leaf

    frozen = freeze(packed(tree))
    assert leaves(map_leaves(more, frozen)) == [more(leaf) for leaf in leaves(frozen)]
    assert shown(zip_leaves(less, zip_leaves(more, tree))) == shown(tree)


@given(TREES)
def test_two_of_a_structure_are_taken_together(tree):
    double = zip_leaves(lambda a, b: a + b if isinstance(a, int) else a, tree, tree)
    assert shown(zip_leaves(lambda a: a // 2 if isinstance(a, int) else a, double)) == shown(tree)
