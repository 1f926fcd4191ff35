#include "packed.h"

#include <algorithm>
#include <cstring>

namespace freehold {
namespace {

constexpr size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

// Loading is bound by this file, so bytes are handled eight at a time.
using Word = uint64_t;

constexpr Word each(uint8_t byte) { return Word(0x0101010101010101) * byte; }

Word word_at(const uint8_t* p) {
    Word word;
    std::memcpy(&word, p, 8);
    return word;
}

// out[i] = f(words of p...) over `count` bytes.
template <class F, class... P>
void map_words(uint8_t* out, int count, F f, const P*... p) {
    for (int i = 0; i < count; i += 8) {
        const Word word = f(word_at(p + i)...);
        std::memcpy(out + i, &word, 8);
    }
}

// Bit k of `bits` as bit `to` of byte k.
Word spread_bits(uint8_t bits, int to) {
    const Word own = each(bits) & 0x8040201008040201;  // byte k: its bit k, or zero
    return (own + each(0x7f)) >> (7 - to) & each(uint8_t(1 << to));
}

// One block of 32 codes, one byte each, from each file format. `b` counts blocks of 32 within a super-block.

void nibbles_32(const uint8_t* qs, uint8_t* out) {
    map_words(out, 16, [](Word q) { return q & each(0x0f); }, qs);
    map_words(out + 16, 16, [](Word q) { return q >> 4 & each(0x0f); }, qs);
}

void fifth_bits_32(const uint8_t* qh, uint8_t* out) {
    for (int i = 0; i < 4; i++) {
        const Word bits = spread_bits(qh[i], 4);
        map_words(out + 8 * i, 8, [=](Word code) { return code | bits; }, out + 8 * i);
    }
}

void codes(const BlockQ4_0& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockQ4_1& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockIQ4_NL& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockMXFP4& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockINT4& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockIQ4_XS& block, int b, uint8_t* out) { nibbles_32(block.qs + 16 * b, out); }

void codes(const BlockQ5_0& block, int, uint8_t* out) {
    nibbles_32(block.qs, out);
    fifth_bits_32(block.qh, out);
}

void codes(const BlockQ5_1& block, int, uint8_t* out) {
    nibbles_32(block.qs, out);
    fifth_bits_32(block.qh, out);
}

void codes(const BlockQ8_0& block, int, uint8_t* out) {
    map_words(out, 32, [](Word q) { return q ^ each(0x80); }, reinterpret_cast<const uint8_t*>(block.qs));
}

void codes(const BlockQ4_K& block, int b, uint8_t* out) {
    const int shift = 4 * (b % 2);
    map_words(out, 32, [=](Word q) { return q >> shift & each(0x0f); }, block.qs + 32 * (b / 2));
}

void codes(const BlockQ5_K& block, int b, uint8_t* out) {
    const int shift = 4 * (b % 2);
    const auto join = [=](Word q, Word high) { return (q >> shift & each(0x0f)) | (high >> b & each(1)) << 4; };
    map_words(out, 32, join, block.qs + 32 * (b / 2), block.qh);
}

void codes(const BlockQ6_K& block, int b, uint8_t* out) {
    const int low = 4 * (b % 4 / 2), high = 2 * (b % 4);
    const auto join = [=](Word q, Word h) { return (q >> low & each(0x0f)) | (h >> high & each(3)) << 4; };
    map_words(out, 32, join, block.ql + 64 * (b / 4) + 32 * (b % 2), block.qh + 32 * (b / 4));
}

void codes(const BlockQ2_K& block, int b, uint8_t* out) {
    const int shift = 2 * (b % 4);
    map_words(out, 32, [=](Word q) { return q >> shift & each(3); }, block.qs + 32 * (b / 4));
}

void codes(const BlockQ3_K& block, int b, uint8_t* out) {
    const int shift = 2 * (b % 4);
    const auto join = [=](Word q, Word high) { return (q >> shift & each(3)) | (high >> b & each(1)) << 2; };
    map_words(out, 32, join, block.qs + 32 * (b / 4), block.hmask);
}

// Scales of row `r` of a panel into a unit of the scale plane.

void put_half(uint8_t* unit, int slot, int r, half_bits value) { std::memcpy(unit + 32 * slot + 2 * r, &value, 2); }

template <class Block>
    requires requires(Block b) {
        b.d;
        b.m;
    }
void scales(const Block& block, uint8_t* unit, int r) {
    put_half(unit, 0, r, block.d);
    put_half(unit, 1, r, block.m);
}

template <class Block>
void half_scale(const Block& block, uint8_t* unit, int r) {
    put_half(unit, 0, r, block.d);
}

void scales(const BlockQ4_0& block, uint8_t* unit, int r) { half_scale(block, unit, r); }
void scales(const BlockQ5_0& block, uint8_t* unit, int r) { half_scale(block, unit, r); }
void scales(const BlockQ8_0& block, uint8_t* unit, int r) { half_scale(block, unit, r); }
void scales(const BlockIQ4_NL& block, uint8_t* unit, int r) { half_scale(block, unit, r); }
void scales(const BlockMXFP4& block, uint8_t* unit, int r) { unit[r] = block.e; }
void scales(const BlockINT4& block, uint8_t* unit, int r) {
    std::memcpy(unit + 2 * r, block.d, 2);
    unit[32 + r] = block.zero;
}

// The 6-bit scales and minima of Q4_K and Q5_K: 12 bytes for 8 pairs.
void k32_min_scales(half_bits d, half_bits dmin, const uint8_t* packed, uint8_t* unit, int r) {
    put_half(unit, 0, r, d);
    put_half(unit, 1, r, dmin ^ 0x8000);
    for (int b = 0; b < 8; b++) {
        uint8_t scale, minimum;
        if (b < 4) {
            scale = packed[b] & 63;
            minimum = packed[b + 4] & 63;
        } else {
            scale = uint8_t((packed[b + 4] & 0x0f) | (packed[b - 4] >> 6) << 4);
            minimum = uint8_t((packed[b + 4] >> 4) | (packed[b] >> 6) << 4);
        }
        unit[64 + 16 * b + r] = scale;
        unit[64 + 128 + 16 * b + r] = minimum;
    }
}

void scales(const BlockQ4_K& block, uint8_t* unit, int r) {
    k32_min_scales(block.d, block.dmin, block.scales, unit, r);
}
void scales(const BlockQ5_K& block, uint8_t* unit, int r) {
    k32_min_scales(block.d, block.dmin, block.scales, unit, r);
}

void scales(const BlockQ6_K& block, uint8_t* unit, int r) {
    half_scale(block, unit, r);
    for (int g = 0; g < 16; g++) unit[32 + 16 * g + r] = uint8_t(block.scales[g]);
}

void scales(const BlockQ2_K& block, uint8_t* unit, int r) {
    put_half(unit, 0, r, block.d);
    put_half(unit, 1, r, block.dmin ^ 0x8000);
    for (int g = 0; g < 16; g++) unit[64 + 16 * g + r] = block.scales[g];
}

void scales(const BlockQ3_K& block, uint8_t* unit, int r) {
    half_scale(block, unit, r);
    for (int g = 0; g < 16; g++) {
        const int low = g < 8 ? block.scales[g] & 0x0f : block.scales[g - 8] >> 4;
        const int high = block.scales[8 + g % 4] >> 2 * (g / 4) & 3;
        unit[32 + 16 * g + r] = uint8_t(int8_t((low | high << 4) - 32));
    }
}

void scales(const BlockIQ4_XS& block, uint8_t* unit, int r) {
    half_scale(block, unit, r);
    for (int b = 0; b < 8; b++) {
        const int low = block.scales_l[b / 2] >> 4 * (b % 2) & 0x0f;
        const int high = block.scales_h >> 2 * b & 3;
        unit[32 + 16 * b + r] = uint8_t(int8_t((low | high << 4) - 32));
    }
}

// Gathers `width` bits, from bit `from` on, of the codes of `count` quads into bytes: those of quad j at bit width * j.
template <int count, int width, int from>
void gather_bits(const uint8_t* quads, uint8_t* out) {
    for (int i = 0; i < 64; i += 8) {
        Word word = 0;
        for (int j = 0; j < count; j++)
            word |= (word_at(quads + 64 * j + i) >> from & each((1 << width) - 1)) << (width * j);
        std::memcpy(out + i, &word, 8);
    }
}

// `quads`: 8 x 64 bytes, one code a byte, quad after quad; into the planes of the layout.
template <int bits>
void put_codes(const uint8_t* quads, uint8_t* out) {
    if constexpr (bits == 8) std::memcpy(out, quads, 512);
    if constexpr (bits >= 4 && bits <= 6) {
        const auto join = [](Word low, Word high) { return (low & each(0x0f)) | (high & each(0x0f)) << 4; };
        map_words(out, 256, join, quads, quads + 256);
    }
    if constexpr (bits == 5) gather_bits<8, 1, 4>(quads, out + 256);
    if constexpr (bits == 6) {
        gather_bits<4, 2, 4>(quads, out + 256);
        gather_bits<4, 2, 4>(quads + 256, out + 320);
    }
    if constexpr (bits == 2 || bits == 3) {
        gather_bits<4, 2, 0>(quads, out);
        gather_bits<4, 2, 0>(quads + 256, out + 64);
    }
    if constexpr (bits == 3) gather_bits<8, 1, 2>(quads, out + 128);
}

template <class Block, Format format>
void pack_quantized(const PackedWeight& weight, const uint8_t* source, int index) {
    constexpr PackedLayout layout = packed_layout(format);
    constexpr int unit_columns = scale_unit_columns(layout.scales);
    constexpr int blocks_per_unit = unit_columns / kBlock;
    uint8_t* out = weight.data + size_t(index) * weight.panel_stride;
    uint8_t* scale_plane = out + size_t(weight.cols / kBlock) * code_block_bytes(layout.bits);
    const int rows = std::min(kPanelRows, weight.rows - index * kPanelRows);
    const int units = weight.cols / unit_columns;
    const auto* blocks = reinterpret_cast<const Block*>(source) + size_t(index) * kPanelRows * units;
    std::memset(scale_plane, 0, size_t(units) * scale_unit_bytes(layout.scales));

    uint8_t row_codes[kPanelRows][kBlock] = {};
    uint8_t quads[8][kPanelRows][4];
    for (int u = 0; u < units; u++) {
        for (int r = 0; r < rows; r++)
            scales(blocks[size_t(r) * units + u], scale_plane + size_t(u) * scale_unit_bytes(layout.scales), r);
        for (int b = 0; b < blocks_per_unit; b++) {
            for (int r = 0; r < rows; r++) codes(blocks[size_t(r) * units + u], b, row_codes[r]);
            for (int r = 0; r < kPanelRows; r++)
                for (int j = 0; j < 8; j++) std::memcpy(quads[j][r], row_codes[r] + 4 * j, 4);
            put_codes<layout.bits>(&quads[0][0][0], out);
            out += code_block_bytes(layout.bits);
        }
    }
}

// A NaN among the codes makes the scale NaN: the kernels' conversion does not know it.
template <int columns>
void pack_fp8(const PackedWeight& weight, const uint8_t* source, int index) {
    using Block = BlockFP8<columns>;
    uint8_t* out = weight.data + size_t(index) * weight.panel_stride;
    auto* scales = reinterpret_cast<float*>(out + size_t(weight.cols) * kPanelRows);
    const int rows = std::min(kPanelRows, weight.rows - index * kPanelRows), units = weight.cols / columns;
    const auto* blocks = reinterpret_cast<const Block*>(source) + size_t(index) * kPanelRows * units;
    std::memset(out, 0, weight.panel_stride);
    for (int r = 0; r < rows; r++)
        for (int u = 0; u < units; u++) {
            const Block& block = blocks[size_t(r) * units + u];
            bool nan = false;
            for (int c = 0; c < columns; c++) {
                nan |= (block.q[c] & 0x7f) == 0x7f;
                out[(size_t(u) * columns + c) * kPanelRows + r] = block.q[c];
            }
            scales[size_t(u) * kPanelRows + r] = nan ? __builtin_nanf("") : kFp8Factor * block.d;
        }
}

template <class Element>
void pack_plain(const PackedWeight& weight, const uint8_t* source, int index) {
    auto* out = reinterpret_cast<Element*>(weight.data + size_t(index) * weight.panel_stride);
    const int rows = std::min(kPanelRows, weight.rows - index * kPanelRows);
    std::memset(out, 0, weight.panel_stride);
    for (int r = 0; r < rows; r++) {
        const uint8_t* row = source + (size_t(index) * kPanelRows + r) * weight.cols * sizeof(Element);
        for (int c = 0; c < weight.cols; c++)
            std::memcpy(out + size_t(c) * kPanelRows + r, row + size_t(c) * sizeof(Element), sizeof(Element));
    }
}

}  // namespace

size_t panel_bytes(Format format, int cols) {
    const PackedLayout layout = packed_layout(format);
    if (layout.scales == ScaleKind::Float32 || layout.scales == ScaleKind::Float128)
        return round_up(size_t(cols) * kPanelRows + size_t(cols / scale_unit_columns(layout.scales)) * 64, 64);
    if (!layout.bits) return round_up(size_t(cols) * kPanelRows * (format == Format::F32 ? 4 : 2), 64);
    const size_t code_bytes = size_t(cols / kBlock) * code_block_bytes(layout.bits);
    return round_up(code_bytes + size_t(cols / scale_unit_columns(layout.scales)) * scale_unit_bytes(layout.scales),
                    64);
}

void pack_panel(const PackedWeight& weight, const uint8_t* source, int index) {
    switch (weight.format) {
        case Format::F32:
            return pack_plain<uint32_t>(weight, source, index);
        case Format::F16:
        case Format::BF16:
            return pack_plain<uint16_t>(weight, source, index);
        case Format::Q4_0:
            return pack_quantized<BlockQ4_0, Format::Q4_0>(weight, source, index);
        case Format::Q4_1:
            return pack_quantized<BlockQ4_1, Format::Q4_1>(weight, source, index);
        case Format::Q5_0:
            return pack_quantized<BlockQ5_0, Format::Q5_0>(weight, source, index);
        case Format::Q5_1:
            return pack_quantized<BlockQ5_1, Format::Q5_1>(weight, source, index);
        case Format::Q8_0:
            return pack_quantized<BlockQ8_0, Format::Q8_0>(weight, source, index);
        case Format::Q2_K:
            return pack_quantized<BlockQ2_K, Format::Q2_K>(weight, source, index);
        case Format::Q3_K:
            return pack_quantized<BlockQ3_K, Format::Q3_K>(weight, source, index);
        case Format::Q4_K:
            return pack_quantized<BlockQ4_K, Format::Q4_K>(weight, source, index);
        case Format::Q5_K:
            return pack_quantized<BlockQ5_K, Format::Q5_K>(weight, source, index);
        case Format::Q6_K:
            return pack_quantized<BlockQ6_K, Format::Q6_K>(weight, source, index);
        case Format::IQ4_NL:
            return pack_quantized<BlockIQ4_NL, Format::IQ4_NL>(weight, source, index);
        case Format::IQ4_XS:
            return pack_quantized<BlockIQ4_XS, Format::IQ4_XS>(weight, source, index);
        case Format::MXFP4:
            return pack_quantized<BlockMXFP4, Format::MXFP4>(weight, source, index);
        case Format::INT4_F16:
            return pack_quantized<BlockINT4, Format::INT4_F16>(weight, source, index);
        case Format::INT4_BF16:
            return pack_quantized<BlockINT4, Format::INT4_BF16>(weight, source, index);
        case Format::FP8_32:
            return pack_fp8<32>(weight, source, index);
        case Format::FP8_128:
            return pack_fp8<128>(weight, source, index);
    }
}

}  // namespace freehold
