// One instruction set's table of kernels, from its vector vocabulary.
#pragma once

#include <utility>

#include "kernels/attention.h"
#include "kernels/experts.h"
#include "kernels/kernels.h"
#include "kernels/latent.h"
#include "kernels/linear.h"
#include "kernels/rows.h"
#include "kernels/states.h"

namespace freehold {

template <class S, template <class, Format> class Linear = LinearKernels, int... format>
constexpr Kernels make_kernels(const char* name, std::integer_sequence<int, format...>) {
    return {
        .name = name,
        .prepare_row = RowKernels<S>::prepare_row,
        .linear = {Linear<S, Format(format)>::run...},
        .quantize_blocks = RowKernels<S>::quantize_blocks,
        .layer_norm = RowKernels<S>::layer_norm,
        .rope = RowKernels<S>::rope,
        .write_key = RowKernels<S>::write_key,
        .write_value = RowKernels<S>::write_value,
        .attend = AttentionDispatch<S>::attend,
        .combine_states = AttentionDispatch<S>::combine_states,
        .largest = RowKernels<S>::largest,
        .keep_row = RowKernels<S>::keep_row,
        .attend_latents = LatentDispatch<S>::attend,
        .rank_keys = LatentDispatch<S>::rank,
        .swiglu = RowKernels<S>::swiglu,
        .gate = RowKernels<S>::gate,
        .add = RowKernels<S>::add,
        .softmax = ExpertKernels<S>::softmax,
        .sigmoid = ExpertKernels<S>::sigmoids,
        .accumulate = ExpertKernels<S>::accumulate,
        .convolve = StateKernels<S>::convolve,
        .recur = StateKernels<S>::recur,
        .silu = StateKernels<S>::silu,
        .decay = StateKernels<S>::decay,
        .unit_heads = StateKernels<S>::unit_heads,
        .max = RowKernels<S>::max,
        .exp_sum = RowKernels<S>::exp_sum,
    };
}

template <class S, template <class, Format> class Linear = LinearKernels>
constexpr Kernels make_kernels(const char* name) {
    return make_kernels<S, Linear>(name, std::make_integer_sequence<int, kNumFormats>());
}

}  // namespace freehold
