"""The functions and modules of torch that a file may name, and nothing else of it.

They compute values from values: none reads or writes files, starts a program, loads code or calls what it is given.
Knows torch; graphs and files are other files' business.
"""

from __future__ import annotations

import builtins
import math
import operator
from collections import OrderedDict, UserDict, UserList, defaultdict, deque
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from snnpipe.errors import SnnpipeError
from snnpipe.frontend.overloads import Overload
from snnpipe.frozen import FrozenMap

_TENSORS = """
    _foreach_abs _foreach_add _foreach_addcdiv _foreach_addcmul _foreach_div _foreach_exp _foreach_lerp _foreach_mul
    _foreach_neg _foreach_pow _foreach_reciprocal _foreach_sqrt _foreach_sub _foreach_zero abs absolute acos acosh
    adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool1d_with_indices
    adaptive_max_pool2d adaptive_max_pool2d_with_indices adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv
    addr adjoint affine_grid affine_grid_generator alias all allclose alpha_dropout amax amin aminmax angle any arange
    arccos arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere as_strided as_strided_scatter
    asin asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm
    bernoulli bfloat16 bilinear binary_cross_entropy binary_cross_entropy_with_logits bincount binomial bitwise_and
    bitwise_left_shift bitwise_not bitwise_or bitwise_right_shift bitwise_xor block_diag bmm bool broadcast_shapes
    broadcast_tensors broadcast_to bucketize byte can_cast cartesian_prod cat cdist cdouble ceil celu cfloat
    chain_matmul chalf channel_shuffle char cholesky cholesky_inverse cholesky_solve chunk clamp clamp_max clamp_min
    clip clone col2im column_stack combinations complex concat concatenate conj conj_physical constant_pad_nd
    contiguous conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution copy copysign
    corrcoef cos cosh cosine_embedding_loss cosine_similarity count cov cross cross_entropy cross_entropy_loss
    ctc_loss cummax cummin cumprod cumsum cumulative_trapezoid deg2rad det detach diag diag_embed diagflat diagonal
    diagonal_scatter diff digamma dim dist div divide dot double dropout dropout1d dropout2d dropout3d dsplit dstack
    einsum elu embedding embedding_bag embedding_renorm empty empty_like eq equal erf erfc erfinv exp exp2 expand
    expand_as expm1 exponential eye feature_alpha_dropout feature_dropout fill fill_diagonal fix flatten flip fliplr
    flipud float float_power floor floor_divide fmax fmin fmod fold frac fractional_max_pool2d fractional_max_pool3d
    frexp frobenius_norm from_numpy full full_like gather gaussian_nll_loss gcd ge gelu geqrf ger glu gradient greater
    greater_equal grid_sample grid_sampler grid_sampler_2d grid_sampler_3d group_norm gt gumbel_softmax half
    hardshrink hardsigmoid hardswish hardtanh heaviside hinge_embedding_loss histc histogram histogramdd hsplit hstack
    huber_loss hypot i0 igamma igammac im2col imag index index_add index_copy index_fill index_put index_reduce
    index_select inner instance_norm int interpolate inverse is_complex is_contiguous is_floating_point is_nonzero
    is_signed is_tensor isclose isfinite isin isinf isnan isposinf isreal istft item kl_div kron kthvalue l1_loss
    layer_norm lcm ldexp le leaky_relu len lerp less less_equal lgamma lift_fresh lift_fresh_copy linear linspace
    local_response_norm log log10 log1p log2 log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet
    logical_and logical_not logical_or logical_xor logit logsigmoid logspace logsumexp long lp_pool1d lp_pool2d
    lp_pool3d lt lu_solve margin_ranking_loss masked_fill masked_scatter masked_select matmul matrix_exp matrix_power
    max max_pool1d max_pool1d_with_indices max_pool2d max_pool2d_with_indices max_pool3d max_pool3d_with_indices
    max_unpool1d max_unpool2d max_unpool3d maximum mean median meshgrid min minimum mish mm mode moveaxis movedim
    mse_loss msort mul multi_head_attention_forward multi_margin_loss multilabel_margin_loss
    multilabel_soft_margin_loss multinomial multiply mv mvlgamma nan_to_num nanmean nanmedian nanquantile nansum
    narrow native_batch_norm native_channel_shuffle native_dropout native_group_norm native_layer_norm ndimension ne
    neg negative nelement new_empty new_empty_strided new_full new_ones new_tensor new_zeros nextafter nll_loss
    nonzero norm normal normalize not_equal nuclear_norm numel one_hot ones ones_like orgqr ormqr outer pad
    pad_sequence pairwise_distance pdist permute pinverse pixel_shuffle pixel_unshuffle poisson poisson_nll_loss polar
    polygamma positive pow prelu prod promote_types put qr quantile rad2deg rand rand_like randint randint_like randn
    randn_like random randperm ravel real reciprocal reflection_pad1d reflection_pad2d reflection_pad3d relu relu6
    remainder renorm repeat repeat_interleave replication_pad1d replication_pad2d replication_pad3d reshape reshape_as
    resolve_conj resolve_neg result_type rms_norm roll rot90 round row_stack rrelu rsqrt rsub scalar_tensor
    scaled_dot_product_attention scatter scatter_add scatter_reduce searchsorted segment_reduce select select_scatter
    selu sgn short sigmoid sign signbit silu sin sinc sinh size slice slice_scatter slogdet smooth_l1_loss
    soft_margin_loss softmax softmin softplus softshrink softsign sort sorted split split_copy split_with_sizes sqrt
    square squeeze stack std std_mean stft stride sub subtract sum sum_to_size svd swapaxes swapdims t take
    take_along_dim tan tanh tanhshrink tensor tensor_split tensordot threshold tile to tolist topk trace transpose
    trapezoid trapz triangular_solve tril tril_indices triplet_margin_loss triu triu_indices true_divide trunc type
    type_as unbind unbind_copy unflatten unfold unfold_copy uniform unique unique_consecutive unique_dim
    unique_dim_consecutive unsqueeze upsample upsample_bicubic2d upsample_bilinear2d upsample_linear1d
    upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_trilinear3d vander var var_mean vdot view
    view_as view_as_complex view_as_real view_copy vsplit vstack where xlogy zero zeros zeros_like
"""
_LINALG = """
    cholesky cholesky_ex cond cross det diagonal eig eigh eigvals eigvalsh householder_product inv inv_ex ldl_factor
    ldl_factor_ex ldl_solve lstsq lu matmul matrix_exp matrix_norm matrix_power matrix_rank multi_dot norm pinv qr
    slogdet solve solve_ex solve_triangular svd svdvals tensorinv tensorsolve vander vecdot vector_norm
"""
_FFT = """
    fft fft2 fftn fftshift hfft hfft2 hfftn ifft ifft2 ifftn ifftshift ihfft ihfft2 ihfftn irfft irfft2 irfftn rfft
    rfft2 rfftn
"""
_SPECIAL = """
    digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc gammaincc gammaln i0 i0e i1 i1e log1p log_ndtr
    log_softmax logit logsumexp multigammaln ndtr ndtri polygamma psi round sinc softmax xlog1py xlogy zeta
"""
_OPERATOR = """
    abs add and_ concat contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul imod imul index invert
    ior ipow irshift is_ is_not isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem
    sub truediv truth xor
"""
_MATH = "ceil cos exp fabs floor isfinite isinf isnan isqrt log log10 log2 pow prod sin sqrt tanh trunc"
_SYMBOLS = "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt sym_sum"
_BUILTINS = "abs bool float getattr int len list max min round sum tuple"

_KNOWN = frozenset(_TENSORS.split())
#: Where functions are looked up, and which of them may be; a name may have the ``_`` of a write behind it.
_HOMES: FrozenMap[str, tuple[Any, frozenset[str]]] = FrozenMap({
    "torch": (torch, _KNOWN | {*_SYMBOLS.split()}),
    "torch.nn.functional": (F, _KNOWN),
    "torch.Tensor": (Tensor, _KNOWN),
    "torch.linalg": (torch.linalg, frozenset(_LINALG.split())),
    "torch.fft": (torch.fft, frozenset(_FFT.split())),
    "torch.special": (torch.special, frozenset(_SPECIAL.split())),
    "operator": (operator, frozenset(_OPERATOR.split())),
    "math": (math, frozenset(_MATH.split())),
    "builtins": (builtins, frozenset(_BUILTINS.split())),
})  # fmt: skip
#: Operators of ATEN alone.
_OF_ATEN = """
    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ _log_softmax
    _softmax _to_copy _unsafe_index _unsafe_view gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh
    rnn_tanh_cell
"""
_ATEN = _KNOWN | {*_OF_ATEN.split()} | {
    f"{home}_{name}" for home in ("linalg", "fft", "special") for name in _HOMES[f"torch.{home}"][1]
}  # fmt: skip

#: Methods of containers that a graph may call, beside those of tensors.
_OF_CONTAINERS = frozenset({"get", "items", "keys", "values", "count", "index", "copy"})


def is_method(name: Any) -> bool:
    """Whether it is the name of a method that a graph of a file may call.

    >>> is_method("view"), is_method("add_"), is_method("__class__"), is_method("tofile")
    (True, True, False, False)
    """
    return isinstance(name, str) and (_may_be(name, _KNOWN) or name in _OF_CONTAINERS)


def _may_be(name: str, known: frozenset[str]) -> bool:
    return name in known or (name[-1:] == "_" and name[-2:] != "__" and name[:-1] in known)


@cache
def _names() -> dict[Any, str]:
    found: dict[Any, str] = {}
    for home, (place, known) in _HOMES.items():
        for name in sorted(known | {f"{name}_" for name in known}):
            value = getattr(place, name, None)
            if callable(value) and _is_hashable(value):
                found.setdefault(value, f"{home}.{name}")
    return found


def _is_hashable(value: Any) -> bool:
    return type(value).__hash__ is not None


def name_of(function: Any) -> str:
    """What a file calls a function of torch, an operator or one of ``math``; ``""`` for any other.

    >>> name_of(torch.rsqrt), name_of(Overload("aten::rsqrt.default")), name_of(torch.load)
    ('torch.rsqrt', 'aten::rsqrt.default', '')
    """
    if isinstance(function, Overload):
        return function.qualified if _is_overload(function.qualified) else ""
    return _names().get(function, "") if _is_hashable(function) else ""


def function(name: Any) -> Callable[..., Any]:
    """The function that a file calls so.

    Raises:
        SnnpipeError: it is not one of those a file may name, or this torch has none of that name.
    """
    if isinstance(name, str) and _is_overload(name):
        overload = Overload(name)
        try:
            overload.found  # noqa: B018
        except AttributeError:
            raise SnnpipeError(f"this torch ({torch.__version__}) has no operator {name}; use a later one") from None
        return overload
    home, _, last = name.rpartition(".") if isinstance(name, str) else ("", "", "")
    place, known = _HOMES.get(home, (None, frozenset[str]()))
    if not _may_be(last, known):
        raise SnnpipeError(f"it names the function {name!r}, which is none of those that a file may name")
    found = getattr(place, last, None)
    if not callable(found):
        raise SnnpipeError(f"this torch ({torch.__version__}) has no {name}; use a later one")
    return found  # type: ignore[no-any-return]


def _is_overload(name: str) -> bool:
    space, _, rest = name.partition("::")
    base, _, overload = rest.partition(".")
    return space == "aten" and _may_be(base, _ATEN) and (not overload or overload.isidentifier())


_CLASSES: dict[str, type] = {
    "OrderedDict": OrderedDict, "defaultdict": defaultdict, "deque": deque, "SimpleNamespace": SimpleNamespace,
    "UserDict": UserDict, "UserList": UserList, "dict": dict, "list": list, "tuple": tuple, "int": int, "float": float,
    "bool": bool,
}  # fmt: skip
_CLASSES |= {f"torch.return_types.{name}": cls for name, cls in vars(torch.return_types).items() if type(cls) is type}
_CLASS_NAMES = {cls: name for name, cls in _CLASSES.items()}


def class_name(cls: type) -> str:
    """What a file calls a class of containers, of Python's or torch's; ``""`` for any other."""
    return _CLASS_NAMES.get(cls, "")


def class_of(name: str) -> type:
    """The class that a file calls so.

    Raises:
        SnnpipeError: it is not one of those that a file may name.
    """
    if name not in _CLASSES:
        raise SnnpipeError(f"it names the class {name!r}, which is none of those that a file may name")
    return _CLASSES[name]


_RNN = "input_size hidden_size num_layers bias batch_first dropout bidirectional"
_CONV = "in_channels out_channels kernel_size stride padding dilation groups bias padding_mode"
#: The modules that a file may name when they are kept as one call, and the arguments that make them, by attribute.
MODULES: FrozenMap[str, tuple[type[nn.Module], tuple[str, ...]]] = FrozenMap({
    kind.__name__: (kind, tuple(arguments.split()))
    for kinds, arguments in (
        ((nn.LSTM,), f"{_RNN} proj_size"), ((nn.GRU,), _RNN), ((nn.RNN,), f"{_RNN} nonlinearity"),
        ((nn.LSTMCell, nn.GRUCell), "input_size hidden_size bias"),
        ((nn.RNNCell,), "input_size hidden_size bias nonlinearity"),
        ((nn.Linear,), "in_features out_features bias"),
        ((nn.Bilinear,), "in1_features in2_features out_features bias"),
        ((nn.Conv1d, nn.Conv2d, nn.Conv3d), _CONV),
        ((nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d), "num_features eps momentum affine track_running_stats"),
        ((nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
         "num_features eps momentum affine track_running_stats"),
        ((nn.LayerNorm,), "normalized_shape eps elementwise_affine"),
        ((nn.GroupNorm,), "num_groups num_channels eps affine"),
        ((nn.Embedding,), "num_embeddings embedding_dim padding_idx"),
        ((nn.ReLU, nn.ReLU6, nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardsigmoid), "inplace"),
        ((nn.Sigmoid, nn.Tanh, nn.Identity, nn.Softsign, nn.LogSigmoid), ""),
        ((nn.GELU,), "approximate"), ((nn.ELU, nn.CELU), "alpha inplace"), ((nn.LeakyReLU,), "negative_slope inplace"),
        ((nn.Softmax, nn.LogSoftmax), "dim"), ((nn.Flatten,), "start_dim end_dim"), ((nn.Softplus,), "beta threshold"),
        ((nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d),
         "kernel_size stride padding dilation return_indices ceil_mode"),
        ((nn.PixelShuffle,), "upscale_factor"), ((nn.PReLU,), "num_parameters"),
    )
    for kind in kinds
})  # fmt: skip
_MOST_LAYERS = 1024


def module_arguments(module: nn.Module) -> dict[str, Any] | None:
    """The arguments that make a module of ``MODULES`` again; ``None`` where they do not tell all of it."""
    kind, names = MODULES.get(type(module).__name__, (None, ()))
    if kind is not type(module):
        return None
    given = {name: getattr(module, name, None) for name in names}
    given |= {"bias": getattr(module, "bias", None) not in (None, False)} if "bias" in given else {}
    try:
        again = make_module(kind.__name__, given)
    except (SnnpipeError, TypeError, ValueError, RuntimeError):
        return None
    return given if facts(again) == facts(module) else None


def make_module(name: str, given: dict[str, Any]) -> nn.Module:
    """The module, without numbers, in evaluation mode.

    Raises:
        SnnpipeError: it is not one of ``MODULES``, or has not these arguments.
    """
    kind, names = MODULES.get(name, (None, ()))
    if kind is None or given.keys() != {*names} or not 1 <= given.get("num_layers", 1) <= _MOST_LAYERS:
        raise SnnpipeError(f"it names the module {name!r}, which is none of those that a file may name, or not so")
    with torch.device("meta"):
        return kind(**given).eval()


def facts(module: nn.Module) -> dict[str, Any]:
    """All that can be said of a module but its numbers, as JSON: by path, of it and those inside it.

    >>> facts(nn.Linear(2, 1))[""]["class"], facts(nn.Linear(2, 1))[""]["weight"]
    ('Linear', [1, 2])
    """
    return {path: _facts(part) for path, part in module.named_modules()}


def _facts(module: nn.Module) -> dict[str, Any]:
    plain = {key: _as_list(value) for key, value in vars(module).items() if _is_plain(value) and value is not None}
    tensors = {**module._parameters, **module._buffers}
    shapes = {key: None if tensor is None else list(tensor.shape) for key, tensor in tensors.items()}
    hooks = {key: len(value) for key, value in vars(module).items() if key.endswith("_hooks") and value}
    return {"class": type(module).__name__} | plain | hooks | shapes


def _is_plain(value: Any) -> bool:
    if type(value) is tuple:
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _as_list(value: Any) -> Any:
    return [_as_list(item) for item in value] if isinstance(value, tuple) else value
