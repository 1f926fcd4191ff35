// y = W x for one panel of 16 outputs and any number of rows.
//
// Layout: packed.h. Quantized weights: exact int32 dot products over 32 (or 16) columns, scaled into a float32
// accumulator block after block: acc = fma(float(dot), w_scale * x_scale, acc), or of two groups of 16 columns
// acc = fma(fma(float(dot1), w_scale1, float(dot0) * w_scale0), x_scale, acc); then the minima's terms. Unquantized
// weights: acc = fma(w, x, acc) column after column. Both orders are the same for one row and for many.
// Few rows: codes are unpacked in registers and weights stream once. Many rows: panels are unpacked once into
// `scratch`. While panels are multiplied with their first rows the next are fetched into the second-level cache, since
// the hardware's own prefetching reaches a third of the bandwidth (11 GB/s a core of 31 on Zen 4, with fetching 24).
#pragma once

#include <utility>

#include "kernels/kernels.h"

namespace freehold {

inline constexpr int kUnpackRows = 17;  // from this many rows on, unpacking a panel once pays

template <class S, Format format>
struct LinearKernels {
    using F = typename S::F;
    using I = typename S::I;
    using C = typename S::C;
    static constexpr PackedLayout L = packed_layout(format);
    static constexpr int kGroups = L.bits ? kBlock / L.group : 1;  // weight scales in a block of 32 columns
    static constexpr int kQuads = 8 / kGroups;
    static constexpr bool kHasZero = L.scales == ScaleKind::HalfZero || L.scales == ScaleKind::BfloatZero;
    static constexpr bool kHasMin =
        kHasZero || L.scales == ScaleKind::HalfMin || L.scales == ScaleKind::K32Min || L.scales == ScaleKind::K16Min;
    static constexpr bool kIsFp8 = L.scales == ScaleKind::Float32 || L.scales == ScaleKind::Float128;
    static constexpr bool kHasOffset = L.offset_shift >= 0 && !(L.wide && S::kWideIsSigned);
    static constexpr int kScaleUnitBlocks = scale_unit_columns(L.scales) / kBlock;

    struct Scales {
        F scale[kGroups], min[kGroups];
    };

    // Scales of block b for lanes lane0..lane0+W. `plane` is the panel's plane of scales.
    FH_INLINE Scales load_scales(const uint8_t* plane, int b, int lane0) {
        const uint8_t* unit = plane + size_t(b / kScaleUnitBlocks) * scale_unit_bytes(L.scales);
        const auto* halves = reinterpret_cast<const uint16_t*>(unit) + lane0;
        const int in_unit = b % kScaleUnitBlocks;
        Scales out;
        if constexpr (L.scales == ScaleKind::Half) out.scale[0] = S::load_half(halves);
        if constexpr (L.scales == ScaleKind::Exponent) out.scale[0] = S::load_exponent(unit + lane0);
        if constexpr (kHasZero) {  // a scale of 11 bits times a zero point of 4: the minimum is exact
            out.scale[0] = L.scales == ScaleKind::HalfZero ? S::load_half(halves) : S::load_bf16(halves);
            out.min[0] = S::sub(S::zero(), S::mul(out.scale[0], S::load_u8(unit + 32 + lane0)));
        }
        if constexpr (L.scales == ScaleKind::HalfMin) {
            out.scale[0] = S::load_half(halves);
            out.min[0] = S::load_half(halves + 16);
        }
        if constexpr (L.scales == ScaleKind::K32Min) {
            const uint8_t* bytes = unit + 64 + 16 * in_unit + lane0;
            out.scale[0] = S::mul(S::load_half(halves), S::load_u8(bytes));
            out.min[0] = S::mul(S::load_half(halves + 16), S::load_u8(bytes + 128));
        }
        if constexpr (L.scales == ScaleKind::K32) {
            const auto* bytes = reinterpret_cast<const int8_t*>(unit + 32 + 16 * in_unit + lane0);
            out.scale[0] = S::mul(S::load_half(halves), S::load_s8(bytes));
        }
        if constexpr (L.scales == ScaleKind::K16)
            for (int g = 0; g < 2; g++) {
                const auto* bytes = reinterpret_cast<const int8_t*>(unit + 32 + 16 * (2 * in_unit + g) + lane0);
                out.scale[g] = S::mul(S::load_half(halves), S::load_s8(bytes));
            }
        if constexpr (L.scales == ScaleKind::K16Min)
            for (int g = 0; g < 2; g++) {
                const uint8_t* bytes = unit + 64 + 16 * (2 * in_unit + g) + lane0;
                uint8_t scale[16], min[16];
                for (int i = 0; i < S::W; i++) scale[i] = bytes[i] & 0x0f;
                for (int i = 0; i < S::W; i++) min[i] = bytes[i] >> 4;
                out.scale[g] = S::mul(S::load_half(halves), S::load_u8(scale));
                out.min[g] = S::mul(S::load_half(halves + 16), S::load_u8(min));
            }
        return out;
    }

    // The level table as unsigned codes: level + offset.
    struct Levels {
        alignas(16) uint8_t code[16];
        constexpr Levels() : code() {
            for (int i = 0; i < 16; i++) code[i] = L.lookup ? uint8_t(L.levels[i] + (1 << L.offset_shift)) : 0;
        }
    };
    static constexpr Levels kLevels{};

    // Code vectors of quads 0..7 of the block at `p`.
    FH_INLINE void unpack(const uint8_t* p, C (&w)[8]) {
        if constexpr (L.bits == 8)
            for (int j = 0; j < 8; j++) w[j] = S::load_codes(p + 64 * j);
        if constexpr (L.bits >= 4 && L.bits <= 6)
            for (int j = 0; j < 4; j++) {
                const C both = S::load_codes(p + 64 * j);
                w[j] = S::template shift_and<0>(both, 0x0f);
                w[j + 4] = S::template shift_and<-4>(both, 0x0f);
            }
        if constexpr (L.bits == 5) add_bits<4>(S::load_codes(p + 256), w, std::make_integer_sequence<int, 8>());
        if constexpr (L.bits == 6) {
            add_pairs<4>(S::load_codes(p + 256), w, std::make_integer_sequence<int, 4>());
            add_pairs<4>(S::load_codes(p + 320), w + 4, std::make_integer_sequence<int, 4>());
        }
        if constexpr (L.bits == 2 || L.bits == 3) {
            for (int j = 0; j < 8; j++) w[j] = S::template shift_and<0>(S::load_codes(p), 0);
            add_pairs<0>(S::load_codes(p), w, std::make_integer_sequence<int, 4>());
            add_pairs<0>(S::load_codes(p + 64), w + 4, std::make_integer_sequence<int, 4>());
        }
        if constexpr (L.bits == 3) add_bits<2>(S::load_codes(p + 128), w, std::make_integer_sequence<int, 8>());
        if constexpr (L.lookup)
            for (int j = 0; j < 8; j++) w[j] = S::lookup(w[j], kLevels.code);
    }

    // w[j] |= bit j of `plane`, moved to bit `to`.
    template <int to, int... j>
    FH_INLINE void add_bits(C plane, C (&w)[8], std::integer_sequence<int, j...>) {
        ((w[j] = S::merge(w[j], S::template shift_and<to - j>(plane, 1 << to))), ...);
    }
    // w[j] |= bits 2j, 2j+1 of `plane`, moved to bit `to`, for four vectors.
    template <int to, int... j>
    FH_INLINE void add_pairs(C plane, C* w, std::integer_sequence<int, j...>) {
        ((w[j] = S::merge(w[j], S::template shift_and<to - 2 * j>(plane, 3 << to))), ...);
    }

    // Fetches what block b of the next panel needs.
    FH_INLINE void fetch(const uint8_t* next, int blocks, int b) {
        for (int j = 0; j < L.bits; j++) fetch_line(next + size_t(b) * code_block_bytes(L.bits) + 64 * j);
        if (b % kScaleUnitBlocks) return;
        constexpr int unit_bytes = scale_unit_bytes(L.scales);
        const uint8_t* unit =
            next + size_t(blocks) * code_block_bytes(L.bits) + size_t(b / kScaleUnitBlocks) * unit_bytes;
        for (int j = 0; j < unit_bytes; j += 64) fetch_line(unit + j);
    }
    FH_INLINE void fetch_line(const uint8_t* p) { __builtin_prefetch(p, 0, 2); }

    static void unpack_panel(const uint8_t* panel, int blocks, uint8_t* out) {
        for (int b = 0; b < blocks; b++, panel += code_block_bytes(L.bits), out += 512)
            for (int lane0 = 0; lane0 < kPanelRows; lane0 += S::W) {
                C w[8];
                unpack(panel + 4 * lane0, w);
                for (int j = 0; j < 8; j++) S::store_codes(out + 64 * j + 4 * lane0, w[j]);
            }
    }

    // The float32 part of one group of a block for one row, group after group; shared with the AMX kernel. `first`
    // keeps the first of two groups until the second comes. (gcc keeps no array of both groups in registers.)
    FH_INLINE void add_group(F& acc, F& first, I dot, const Scales& scales, int group, const PreparedRows& x,
                             size_t block_at) {
        const F product = S::to_float(dot), x_scale = S::set1(x.scales[block_at]);
        if (kGroups == 2 && group == 0) {
            first = S::mul(product, scales.scale[0]);
            return;
        }
        if (kGroups == 1)
            acc = S::fma(product, S::mul(scales.scale[0], x_scale), acc);
        else
            acc = S::fma(S::fma(product, scales.scale[group], first), x_scale, acc);
        if constexpr (kHasMin)
            for (int g = 0; g < kGroups; g++) {
                const float sum = kGroups == 1 ? x.scaled_sums[block_at]
                                               : x.scales[block_at] * -float(x.negative_sums16[2 * block_at + g]);
                acc = S::fma(scales.min[g], S::set1(sum), acc);
            }
    }

    FH_INLINE I initial_dot(const PreparedRows& x, size_t block_at, int group) {
        if constexpr (!kHasOffset) return S::zero_int();
        return S::template set1_shifted<(kHasOffset ? L.offset_shift : 0)>(
            kGroups == 1 ? x.negative_sums32[block_at] : x.negative_sums16[2 * block_at + group]);
    }

    FH_INLINE void finish(const LinearTask& t, int row, int column, F acc) {
        if (t.bias) acc = S::add(acc, S::load(t.bias + column));
        const size_t at = size_t(row) * t.out_stride + column;
        if (t.residual) acc = S::add(acc, S::load(t.residual + at));
        S::store(t.out + at, acc);
    }

    // R rows from `row` on by P panels from `panel` on, lanes lane0..lane0+W.
    // `codes`: the packed panel, or the unpacked codes of the panels.
    template <int R, int P, bool unpacked>
    static void tile(const LinearTask& t, int panel, int row, int lane0, const uint8_t* codes, const uint8_t* next) {
        const PreparedRows& x = *t.x;
        const int blocks = x.cols / kBlock;
        const uint8_t* planes = panel_at(t, panel) + size_t(blocks) * code_block_bytes(L.bits);
        const int8_t* xq = x.codes + size_t(row) * x.cols;
        const size_t first_block = size_t(row) * blocks;
        F acc[P][R];
        for (int p = 0; p < P; p++)
            for (int r = 0; r < R; r++) acc[p][r] = S::zero();
        for (int b = 0; b < blocks; b++, xq += kBlock) {
            C w[8];
            if (next) fetch(next, blocks, b);
            if constexpr (!unpacked) unpack(codes + size_t(b) * code_block_bytes(L.bits) + 4 * lane0, w);
            Scales scales[P];
            for (int p = 0; p < P; p++) scales[p] = load_scales(planes + p * t.panel_stride, b, lane0);
            F first[P][R];
#pragma GCC unroll 2
            for (int g = 0; g < kGroups; g++) {
                I dot[P][R];
                for (int p = 0; p < P; p++)
                    for (int r = 0; r < R; r++) dot[p][r] = initial_dot(x, first_block + size_t(r) * blocks + b, g);
                for (int j = g * kQuads; j < (g + 1) * kQuads; j++)
                    for (int p = 0; p < P; p++) {
                        const C quad =
                            unpacked ? S::load_codes(codes + size_t(p * blocks + b) * 512 + 64 * j + 4 * lane0) : w[j];
                        for (int r = 0; r < R; r++)
                            dot[p][r] = S::template dot<L.wide>(dot[p][r], quad, xq + size_t(r) * x.cols + 4 * j);
                    }
                for (int p = 0; p < P; p++)
                    for (int r = 0; r < R; r++)
                        add_group(acc[p][r], first[p][r], dot[p][r], scales[p], g, x,
                                  first_block + size_t(r) * blocks + b);
            }
        }
        for (int p = 0; p < P; p++)
            for (int r = 0; r < R; r++) finish(t, row + r, (panel + p) * kPanelRows + lane0, acc[p][r]);
    }

    static const uint8_t* panel_at(const LinearTask& t, int panel) { return t.panel + size_t(panel) * t.panel_stride; }
    // A panel of this task, or of the next as far as it is known; or null.
    static const uint8_t* upcoming(const LinearTask& t, int panel) {
        if (panel < t.num_panels) return panel_at(t, panel);
        return t.next_panel ? t.next_panel + size_t(panel - t.num_panels) * t.panel_stride : nullptr;
    }

    // As many rows at a time as there are registers for, then what is left in one tile. The first tiles fetch the next
    // P panels.
    template <int R, int P, bool unpacked>
    static void tiles(const LinearTask& t, int panel, int row, const uint8_t* codes) {
        for (; row + R <= t.row1; row += R)
            for (int lane0 = 0; lane0 < kPanelRows; lane0 += S::W) {
                const int index = lane0 ? P : (row - t.row0) / R;
                const uint8_t* next = index < P ? upcoming(t, panel + P + index) : nullptr;
                tile<R, P, unpacked>(t, panel, row, lane0, codes, next);
            }
        if constexpr (R > 1) tiles<R - 1, P, unpacked>(t, panel, row, codes);
    }

    static void unpack_to_scratch(const LinearTask& t, int panel, int count) {
        const int blocks = t.x->cols / kBlock;
        for (int p = 0; p < count; p++)
            unpack_panel(panel_at(t, panel + p), blocks, t.scratch + size_t(p) * blocks * 512);
    }

    static void quantized(const LinearTask& t) {
        int panel = 0;
        if (t.row1 - t.row0 < kUnpackRows) {
            for (; panel < t.num_panels; panel++) tiles<S::kMaxRows, 1, false>(t, panel, t.row0, panel_at(t, panel));
            return;
        }
        if constexpr (S::kPairRows > 0)
            for (; panel + 2 <= t.num_panels; panel += 2) {
                unpack_to_scratch(t, panel, 2);
                tiles<S::kPairRows, 2, true>(t, panel, t.row0, t.scratch);
            }
        for (; panel < t.num_panels; panel++) {
            unpack_to_scratch(t, panel, 1);
            tiles<S::kMaxRows, 1, true>(t, panel, t.row0, t.scratch);
        }
    }

    FH_INLINE F load_weight(const uint8_t* panel, size_t element) {
        if constexpr (format == Format::F32) return S::load(reinterpret_cast<const float*>(panel) + element);
        if constexpr (kIsFp8) return S::load_e4m3(panel + element);
        if constexpr (format == Format::F16) return S::load_half(reinterpret_cast<const uint16_t*>(panel) + element);
        return S::load_bf16(reinterpret_cast<const uint16_t*>(panel) + element);
    }

    template <int R>
    static void plain_tile(const LinearTask& t, int panel, int row, int lane0) {
        const float* x = t.x->values + size_t(row) * t.x->value_stride;
        F acc[R];
        for (int r = 0; r < R; r++) acc[r] = S::zero();
        F scale = S::zero();
        for (int c = 0; c < t.x->cols; c++) {
            F w = load_weight(panel_at(t, panel), size_t(c) * kPanelRows + lane0);
            if constexpr (kIsFp8) {
                constexpr int unit = scale_unit_columns(L.scales);
                const auto* scales =
                    reinterpret_cast<const float*>(panel_at(t, panel) + size_t(t.x->cols) * kPanelRows) + lane0;
                if (c % unit == 0) scale = S::load(scales + size_t(c / unit) * kPanelRows);
                w = S::mul(w, scale);
            }
            for (int r = 0; r < R; r++) acc[r] = S::fma(w, S::set1(x[size_t(r) * t.x->value_stride + c]), acc[r]);
        }
        for (int r = 0; r < R; r++) finish(t, row + r, panel * kPanelRows + lane0, acc[r]);
    }

    template <int R = S::kMaxRows>
    static void plain_tiles(const LinearTask& t, int panel, int row) {
        for (; row + R <= t.row1; row += R)
            for (int lane0 = 0; lane0 < kPanelRows; lane0 += S::W) plain_tile<R>(t, panel, row, lane0);
        if constexpr (R > 1) plain_tiles<R - 1>(t, panel, row);
    }

    static void run(const LinearTask& t) {
        if constexpr (L.bits)
            quantized(t);
        else
            for (int panel = 0; panel < t.num_panels; panel++) plain_tiles(t, panel, t.row0);
    }
};

}  // namespace freehold
