// Attention's operands as 16-bit integers: half the instructions of float32, and products that are exact in any order.
//
// What is kept (keys, values, latents) has codes of 14 bits with a scale for a head's vector or a row, queries have 13
// with one scale, and the weights of 32 keys (softmax times the scale of the key's value) 13 with a scale for these.
#pragma once

#include "kernels/kernels.h"
#include "kernels/rows.h"

namespace freehold {

inline constexpr int kQueryLevels = 4095, kWeightLevels = 4095;  // as kKeyLevels

// Codes of a query's weights of keys hidden..visible of a span, times the keys' scales, with a scale for each block of
// keys. The others of their blocks weigh nothing, whatever their scales are.
template <class S>
void quantize_weights(float* weights, const float* key_scales, int hidden, int visible, int16_t* codes, float* scales) {
    using Rows = RowKernels<S>;
    const int padded = (visible + kKvBlock - 1) / kKvBlock * kKvBlock;
    for (int k = 0; k < padded; k += S::W) S::store(weights + k, S::mul(S::load(weights + k), S::load(key_scales + k)));
    for (int k = 0; k < hidden; k++) weights[k] = 0;
    for (int k = visible; k < padded; k++) weights[k] = 0;
    for (int first = 0; first < padded; first += kKvBlock) {
        const float max = Rows::largest(weights + first, kKvBlock);
        scales[first / kKvBlock] = Rows::quantize(weights + first, kKvBlock, max, kWeightLevels, codes + first);
    }
}

}  // namespace freehold
