// Kernels over single rows: norms, int8 codes, rope, KV write, gates.
// Accumulation in float32 over 16 lanes, then a fixed tree. Threading: the program gives rows to threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "kernels/kernels.h"
#include "kernels/vector_math.h"

namespace freehold {

template <class S>
struct RowKernels {
    using F = typename S::F;
    static constexpr int V = kVectors16<S>;

    // f(vectors, column) for each 16 columns; a tail is padded with zeros.
    template <class Function>
    static void for_columns(const float* x, int cols, Function f) {
        F v[V];
        int c = 0;
        for (; c + 16 <= cols; c += 16) {
            for (int i = 0; i < V; i++) v[i] = S::load(x + c + i * S::W);
            f(v, c);
        }
        if (c == cols) return;
        float tail[16] = {};
        std::memcpy(tail, x + c, size_t(cols - c) * sizeof(float));
        for (int i = 0; i < V; i++) v[i] = S::load(tail + i * S::W);
        f(v, c);
    }

    // RMSNorm (Zhang and Sennrich 2019): x / sqrt(mean(x^2) + eps) * weight.
    static void rms_norm(const float* x, const float* weight, float eps, float* out, int cols) {
        F squares[V];
        for (int i = 0; i < V; i++) squares[i] = S::zero();
        for_columns(x, cols, [&](const F(&v)[V], int) {
            for (int i = 0; i < V; i++) squares[i] = S::fma(v[i], v[i], squares[i]);
        });
        const float inverse = 1.0f / std::sqrt(S::sum16(squares) / float(cols) + eps);
        for (int c = 0; c < cols; c++) out[c] = x[c] * inverse * weight[c];
    }

    // LayerNorm (Ba et al. 2016): (x - mean) / sqrt(variance + eps) * weight + bias.
    static void layer_norm(const float* x, const float* weight, const float* bias, float eps, float* out, int cols) {
        F sums[V], squares[V];
        for (int i = 0; i < V; i++) sums[i] = squares[i] = S::zero();
        for_columns(x, cols, [&](const F(&v)[V], int) {
            for (int i = 0; i < V; i++) sums[i] = S::add(sums[i], v[i]);
        });
        const float mean = S::sum16(sums) / float(cols);
        for (int c = 0; c < cols; c++) out[c] = x[c] - mean;
        for_columns(out, cols, [&](const F(&v)[V], int) {
            for (int i = 0; i < V; i++) squares[i] = S::fma(v[i], v[i], squares[i]);
        });
        const float inverse = 1.0f / std::sqrt(S::sum16(squares) / float(cols) + eps);
        for (int c = 0; c < cols; c++) out[c] = out[c] * inverse * weight[c] + bias[c];
    }

    // Codes of 32 columns: round(x / scale), scale = max |x| / 127. A NaN or an infinity makes the scale NaN.
    static void quantize_block(const float* x, const PreparedRows& out, int row, int block) {
        constexpr int n = kBlock / S::W;
        F v[n];
        for (int i = 0; i < n; i++) v[i] = S::load(x + i * S::W);
        F largest = S::abs(v[0]);
        for (int i = 1; i < n; i++) largest = S::max_magnitude(largest, S::abs(v[i]));
        const float max = S::reduce_magnitude(largest);
        const bool finite = max < __builtin_inff();
        if (!finite)
            for (F& each : v) each = S::zero();
        const F inverse = S::set1(max > 1e-30f && finite ? 127.0f / max : 0.0f);
        for (F& each : v) each = S::mul(each, inverse);
        int sums[2];
        S::store_block(out.codes + size_t(row) * out.cols + block * kBlock, v, sums);
        const size_t at = size_t(row) * (out.cols / kBlock) + block;
        const float scale = finite ? max / 127.0f : __builtin_nanf("");
        out.scales[at] = scale;
        out.scaled_sums[at] = scale * float(sums[0] + sums[1]);
        out.negative_sums32[at] = -(sums[0] + sums[1]);
        out.negative_sums16[2 * at] = -sums[0];
        out.negative_sums16[2 * at + 1] = -sums[1];
    }

    static void prepare_row(const float* x, const float* norm, float eps, float* values, const PreparedRows& out,
                            int row, bool quantize) {
        if (norm) {
            rms_norm(x, norm, eps, values, out.cols);
            x = values;
        }
        if (!quantize) return;
        for (int block = 0; block < out.cols / kBlock; block++) quantize_block(x + block * kBlock, out, row, block);
    }

    static void quantize_blocks(const float* x, const PreparedRows& out, int row, int block, int count) {
        for (int i = 0; i < count; i++) quantize_block(x + i * kBlock, out, row, block + i);
    }

    static void rope(const RopeTask& task) {
        const int half = task.rotary_dim / 2;
        for (int h = 0; h < task.num_heads; h++) {
            float* v = task.heads + size_t(h) * task.head_dim + task.first;
            const int step = task.interleaved ? 2 : 1, apart = task.interleaved ? 1 : half;
            for (int i = 0; i < half; i++) {
                const float a = v[i * step], b = v[i * step + apart];
                v[i * step] = a * task.cosines[i] - b * task.sines[i];
                v[i * step + apart] = b * task.cosines[i] + a * task.sines[i];
            }
        }
    }

    static void swiglu(const float* gate, const float* up, float* out, int count, const Glu& glu) {
        const F alpha = S::set1(glu.alpha), offset = S::set1(glu.offset);
        const F limit = S::set1(glu.limit), least = S::set1(-glu.limit);
        for_columns(gate, count, [&](const F(&gates)[V], int c) {
            for (int i = 0; i < V; i++) {
                const F g = S::min(limit, gates[i]);
                const F u = S::max(least, S::min(limit, S::load(up + c + i * S::W)));
                const F gated = S::mul(g, sigmoid<S>(S::mul(alpha, g)));
                S::store(out + c + i * S::W, S::mul(gated, S::add(u, offset)));
            }
        });
    }

    static void gate(const float* x, const float* gate, float* out, int count, Activation activation) {
        for_columns(gate, count, [&](const F(&g)[V], int c) {
            for (int i = 0; i < V; i++) {
                const F s = sigmoid<S>(g[i]);
                const F factor = activation == Activation::Silu ? S::mul(g[i], s) : s;
                S::store(out + c + i * S::W, S::mul(S::load(x + c + i * S::W), factor));
            }
        });
    }

    static void add(const float* a, const float* b, float* out, int count, float a_scale, float b_scale) {
        for (int i = 0; i < count; i++) out[i] = a[i] * a_scale + b[i] * b_scale;
    }

    static float max(const float* x, int count) {
        F largest[V];
        for (int i = 0; i < V; i++) largest[i] = S::set1(-__builtin_inff());
        int c = 0;
        for (; c + 16 <= count; c += 16)
            for (int i = 0; i < V; i++) largest[i] = S::max(largest[i], S::load(x + c + i * S::W));
        float result = S::max16(largest);
        for (; c < count; c++) result = larger(result, x[c]);
        return result;
    }

    static float exp_sum(const float* x, int count, float max, float inverse_temperature) {
        F sum[V];
        for (int i = 0; i < V; i++) sum[i] = S::zero();
        const auto weight = [&](F v) {
            return exp_nonpositive<S>(S::mul(S::sub(v, S::set1(max)), S::set1(inverse_temperature)));
        };
        int c = 0;
        for (; c + 16 <= count; c += 16)
            for (int i = 0; i < V; i++) sum[i] = S::add(sum[i], weight(S::load(x + c + i * S::W)));
        float result = S::sum16(sum);
        for (; c < count; c++) result += exp_nonpositive1<S>((x[c] - max) * inverse_temperature);
        return result;
    }

    static uint16_t to_bf16(float x) {
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        if ((bits & 0x7fffffff) > 0x7f800000) return uint16_t(bits >> 16 | 0x40);
        return uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
    }

    // Values in float32 or bf16, with zeros behind them up to `padded`.
    template <class Element>
    static void convert(const float* x, int width, int padded, Element* out) {
        for (int c = 0; c < width; c++) {
            if constexpr (sizeof(Element) == 2)
                out[c] = to_bf16(x[c]);
            else
                out[c] = x[c];
        }
        std::fill(out + width, out + padded, Element(0));
    }

    template <class Element>
    static void write_key_as(const KvLayout& layout, uint8_t* head_block, int slot, const float* key) {
        Element column[kMaxHeadDim];
        convert(key, layout.head_dim, layout.padded_dim(), column);
        auto* keys = reinterpret_cast<Element*>(head_block);
        for (int d = 0; d < layout.padded_dim(); d++) keys[size_t(d) * kKvBlock + slot] = column[d];
    }

    template <class Element>
    static void write_value_as(const KvLayout& layout, uint8_t* head_block, int slot, const float* value) {
        auto* values = reinterpret_cast<Element*>(head_block + layout.keys_bytes());
        convert(value, layout.head_dim, layout.padded_dim(), values + size_t(slot) * layout.padded_dim());
    }

    // The codes of a head's vector, with zeros behind them; returns their scale.
    template <class Code>
    static float code_vector(const KvLayout& layout, const float* x, Code (&codes)[kMaxHeadDim]) {
        constexpr int levels = sizeof(Code) == 1 ? 127 : kKeyLevels;
        return quantize(x, layout.head_dim, largest(x, layout.head_dim), levels, codes);
    }

    template <class Code>
    static void write_key_codes(const KvLayout& layout, uint8_t* head_block, int slot, const float* key) {
        Code codes[kMaxHeadDim];
        layout.key_scales(head_block)[slot] = code_vector(layout, key, codes);
        auto* keys = reinterpret_cast<Code*>(head_block);
        for (int d = 0; d < layout.padded_dim(); d += 2)
            std::memcpy(keys + size_t(d) * kKvBlock + 2 * slot, codes + d, 2 * sizeof(Code));
    }

    template <class Code>
    static void write_value_codes(const KvLayout& layout, uint8_t* head_block, int slot, const float* value) {
        Code codes[kMaxHeadDim];
        layout.value_scales(head_block)[slot] = code_vector(layout, value, codes);
        auto* values = reinterpret_cast<Code*>(head_block + layout.keys_bytes());
        values += size_t(slot - slot % 2) * layout.padded_dim() + slot % 2;
        for (int d = 0; d < layout.padded_dim(); d++) values[2 * d] = codes[d];
    }

    static void write_key(const KvLayout& layout, uint8_t* head_block, int slot, const float* key) {
        if (layout.format == KvFormat::Int16) return write_key_codes<int16_t>(layout, head_block, slot, key);
        if (layout.format == KvFormat::Int8) return write_key_codes<int8_t>(layout, head_block, slot, key);
        if (layout.format == KvFormat::F32) return write_key_as<float>(layout, head_block, slot, key);
        write_key_as<uint16_t>(layout, head_block, slot, key);
    }

    static void write_value(const KvLayout& layout, uint8_t* head_block, int slot, const float* value) {
        if (layout.format == KvFormat::Int16) return write_value_codes<int16_t>(layout, head_block, slot, value);
        if (layout.format == KvFormat::Int8) return write_value_codes<int8_t>(layout, head_block, slot, value);
        if (layout.format == KvFormat::F32) return write_value_as<float>(layout, head_block, slot, value);
        write_value_as<uint16_t>(layout, head_block, slot, value);
    }

    static float largest(const float* x, int width) {  // magnitude; a NaN is above all
        F most = S::zero();
        for_columns(x, width, [&](const F(&v)[V], int) {
            for (int i = 0; i < V; i++) most = S::max_magnitude(most, S::abs(v[i]));
        });
        return S::reduce_magnitude(most);
    }

    FH_INLINE void store_codes(int16_t* p, F x) { S::store_s16(p, x); }
    FH_INLINE void store_codes(int8_t* p, F x) { S::store_s8(p, S::round(x)); }

    // Codes of up to `levels` either side of zero, of which `max` is the last; zeros behind them up to a multiple of
    // kRowColumns. Returns their scale, which a NaN or an infinity makes NaN.
    template <class Code>
    static float quantize(const float* x, int width, float max, int levels, Code* out) {
        const bool finite = max < __builtin_inff();
        const F inverse = S::set1(max > 1e-30f && finite ? float(levels) / max : 0.0f);
        for_columns(x, width, [&](const F(&v)[V], int c) {
            for (int i = 0; i < V; i++) store_codes(out + c + i * S::W, finite ? S::mul(v[i], inverse) : S::zero());
        });
        for (int c = (width + 15) / 16 * 16; c % kRowColumns; c++) out[c] = 0;  // for_columns wrote whole vectors
        return finite ? max / float(levels) : __builtin_nanf("");
    }

    static void keep_row(RowFormat format, const float* x, int width, float max, uint8_t* out, float* scale) {
        const int padded = (width + kRowColumns - 1) / kRowColumns * kRowColumns;
        if (format == RowFormat::Int16)
            *scale = quantize(x, width, max, kKeyLevels, reinterpret_cast<int16_t*>(out));
        else if (format == RowFormat::BF16)
            convert(x, width, padded, reinterpret_cast<uint16_t*>(out));
        else
            convert(x, width, padded, reinterpret_cast<float*>(out));
    }
};

}  // namespace freehold
