"""The names of torch's functions, and some of Python's, that a file may use; words only.

They compute values from values: none reads or writes files, starts a program, loads code or calls what it is given.
"""

from __future__ import annotations

#: Of tensors: functions of ``torch`` and ``torch.nn.functional``, methods, operators of ATEN.
TENSORS = """
    _fake_quantize_learnable_per_channel_affine _fake_quantize_learnable_per_tensor_affine _foreach_abs _foreach_add
    _foreach_addcdiv _foreach_addcmul _foreach_div _foreach_exp _foreach_lerp _foreach_mul _foreach_neg _foreach_pow
    _foreach_reciprocal _foreach_sqrt _foreach_sub _foreach_zero abs absolute acos acosh adaptive_avg_pool1d
    adaptive_avg_pool2d adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool1d_with_indices adaptive_max_pool2d
    adaptive_max_pool2d_with_indices adaptive_max_pool3d add addbmm addcdiv addcmul addmm addmv addr adjoint
    affine_grid affine_grid_generator alias all allclose alpha_dropout amax amin aminmax angle any arange arccos
    arccosh arcsin arcsinh arctan arctan2 arctanh argmax argmin argsort argwhere as_strided as_strided_scatter asin
    asinh atan atan2 atanh atleast_1d atleast_2d atleast_3d avg_pool1d avg_pool2d avg_pool3d baddbmm batch_norm
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
    expand_as expm1 exponential eye fake_quantize_per_channel_affine fake_quantize_per_tensor_affine
    feature_alpha_dropout feature_dropout fill fill_diagonal fix flatten flip fliplr flipud float float_power floor
    floor_divide fmax fmin fmod fold frac fractional_max_pool2d fractional_max_pool3d frexp frobenius_norm from_numpy
    full full_like gather gaussian_nll_loss gcd ge gelu geqrf ger glu gradient greater greater_equal grid_sample
    grid_sampler grid_sampler_2d grid_sampler_3d group_norm gt gumbel_softmax half hardshrink hardsigmoid hardswish
    hardtanh heaviside hinge_embedding_loss histc histogram histogramdd hsplit hstack huber_loss hypot i0 igamma
    igammac im2col imag index index_add index_copy index_fill index_put index_reduce index_select inner instance_norm
    int interpolate inverse is_complex is_contiguous is_floating_point is_nonzero is_signed is_tensor isclose isfinite
    isin isinf isnan isposinf isreal istft item kl_div kron kthvalue l1_loss layer_norm lcm ldexp le leaky_relu len
    lerp less less_equal lgamma lift_fresh lift_fresh_copy linear linspace local_response_norm log log10 log1p log2
    log_sigmoid log_softmax logaddexp logaddexp2 logcumsumexp logdet logical_and logical_not logical_or logical_xor
    logit logsigmoid logspace logsumexp long lp_pool1d lp_pool2d lp_pool3d lt lu_solve margin_ranking_loss masked_fill
    masked_scatter masked_select matmul matrix_exp matrix_power max max_pool1d max_pool1d_with_indices max_pool2d
    max_pool2d_with_indices max_pool3d max_pool3d_with_indices max_unpool1d max_unpool2d max_unpool3d maximum mean
    median meshgrid min minimum mish mm mode moveaxis movedim mse_loss msort mul multi_head_attention_forward
    multi_margin_loss multilabel_margin_loss multilabel_soft_margin_loss multinomial multiply mv mvlgamma nan_to_num
    nanmean nanmedian nanquantile nansum narrow native_batch_norm native_channel_shuffle native_dropout
    native_group_norm native_layer_norm ndimension ne neg negative nelement new_empty new_empty_strided new_full
    new_ones new_tensor new_zeros nextafter nll_loss nonzero norm normal normalize not_equal nuclear_norm numel
    one_hot ones ones_like orgqr ormqr outer pad pad_sequence pairwise_distance pdist permute pinverse pixel_shuffle
    pixel_unshuffle poisson poisson_nll_loss polar polygamma positive pow prelu prod promote_types put qr quantile
    rad2deg rand rand_like randint randint_like randn randn_like random randperm ravel real reciprocal
    reflection_pad1d reflection_pad2d reflection_pad3d relu relu6 remainder renorm repeat repeat_interleave
    replication_pad1d replication_pad2d replication_pad3d reshape reshape_as resolve_conj resolve_neg result_type
    rms_norm roll rot90 round row_stack rrelu rsqrt rsub scalar_tensor scaled_dot_product_attention scatter
    scatter_add scatter_reduce searchsorted segment_reduce select select_scatter selu sgn short sigmoid sign signbit
    silu sin sinc sinh size slice slice_scatter slogdet smooth_l1_loss soft_margin_loss softmax softmin softplus
    softshrink softsign sort sorted split split_copy split_with_sizes sqrt square squeeze stack std std_mean stft
    stride sub subtract sum sum_to_size svd swapaxes swapdims t take take_along_dim tan tanh tanhshrink tensor
    tensor_split tensordot threshold tile to tolist topk trace transpose trapezoid trapz triangular_solve tril
    tril_indices triplet_margin_loss triu triu_indices true_divide trunc type type_as unbind unbind_copy unflatten
    unfold unfold_copy uniform unique unique_consecutive unique_dim unique_dim_consecutive unsqueeze upsample
    upsample_bicubic2d upsample_bilinear2d upsample_linear1d upsample_nearest1d upsample_nearest2d upsample_nearest3d
    upsample_trilinear3d vander var var_mean vdot view view_as view_as_complex view_as_real view_copy vsplit vstack
    where xlogy zero zeros zeros_like
"""
#: Of ``torch.linalg``.
LINALG = """
    cholesky cholesky_ex cond cross det diagonal eig eigh eigvals eigvalsh householder_product inv inv_ex ldl_factor
    ldl_factor_ex ldl_solve lstsq lu matmul matrix_exp matrix_norm matrix_power matrix_rank multi_dot norm pinv qr
    slogdet solve solve_ex solve_triangular svd svdvals tensorinv tensorsolve vander vecdot vector_norm
"""
#: Of ``torch.fft``.
FFT = """
    fft fft2 fftn fftshift hfft hfft2 hfftn ifft ifft2 ifftn ifftshift ihfft ihfft2 ihfftn irfft irfft2 irfftn rfft
    rfft2 rfftn
"""
#: Of ``torch.special``.
SPECIAL = """
    digamma entr erf erfc erfcx erfinv exp2 expit expm1 gammainc gammaincc gammaln i0 i0e i1 i1e log1p log_ndtr
    log_softmax logit logsumexp multigammaln ndtr ndtri polygamma psi round sinc softmax xlog1py xlogy zeta
"""
#: Of Python's ``operator``.
OPERATOR = """
    abs add and_ concat contains eq floordiv ge getitem gt iadd iand ifloordiv ilshift imatmul imod imul index invert
    ior ipow irshift is_ is_not isub itruediv ixor le lshift lt matmul mod mul ne neg not_ or_ pos pow rshift setitem
    sub truediv truth xor
"""
#: Of ``math``.
MATH = "ceil cos exp fabs floor isfinite isinf isnan isqrt log log10 log2 pow prod sin sqrt tanh trunc"
#: Of ``torch``, for sizes that are symbols.
SYMBOLS = "sym_float sym_int sym_ite sym_max sym_min sym_not sym_sqrt sym_sum"
#: Of Python.
BUILTINS = "abs bool float getattr int len list max min round sum tuple"

#: Operators of ATEN alone.
OF_ATEN = """
    __and__ __iand__ __ilshift__ __ior__ __irshift__ __ixor__ __lshift__ __or__ __rshift__ __xor__ _log_softmax
    _softmax _to_copy _unsafe_index _unsafe_view gru gru_cell lstm lstm_cell rnn_relu rnn_relu_cell rnn_tanh
    rnn_tanh_cell
"""
