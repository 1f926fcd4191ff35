#include "packed.h"

#include <algorithm>
#include <cstring>

namespace freehold {
namespace {

constexpr size_t round_up(size_t value, size_t step) { return (value + step - 1) / step * step; }

// One block of 32 codes, one byte each, from each file format. `b` counts blocks of 32 within a super-block.

void nibbles_32(const uint8_t* qs, uint8_t* out) {
    for (int i = 0; i < 16; i++) out[i] = qs[i] & 0x0f;
    for (int i = 0; i < 16; i++) out[16 + i] = qs[i] >> 4;
}

void fifth_bits_32(const uint8_t* qh, uint8_t* out) {
    uint32_t bits;
    std::memcpy(&bits, qh, 4);
    for (int i = 0; i < 32; i++) out[i] |= uint8_t((bits >> i & 1) << 4);
}

void codes(const BlockQ4_0& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockQ4_1& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockIQ4_NL& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
void codes(const BlockMXFP4& block, int, uint8_t* out) { nibbles_32(block.qs, out); }
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
    for (int i = 0; i < 32; i++) out[i] = uint8_t(block.qs[i]) ^ 0x80;
}

void codes(const BlockQ4_K& block, int b, uint8_t* out) {
    const uint8_t* qs = block.qs + 32 * (b / 2);
    const int shift = 4 * (b % 2);
    for (int i = 0; i < 32; i++) out[i] = qs[i] >> shift & 0x0f;
}

void codes(const BlockQ5_K& block, int b, uint8_t* out) {
    const uint8_t* qs = block.qs + 32 * (b / 2);
    const int shift = 4 * (b % 2);
    for (int i = 0; i < 32; i++) out[i] = uint8_t((qs[i] >> shift & 0x0f) | (block.qh[i] >> b & 1) << 4);
}

void codes(const BlockQ6_K& block, int b, uint8_t* out) {
    const uint8_t* ql = block.ql + 64 * (b / 4) + 32 * (b % 2);
    const uint8_t* qh = block.qh + 32 * (b / 4);
    const int low = 4 * (b % 4 / 2), high = 2 * (b % 4);
    for (int i = 0; i < 32; i++) out[i] = uint8_t((ql[i] >> low & 0x0f) | (qh[i] >> high & 3) << 4);
}

void codes(const BlockQ2_K& block, int b, uint8_t* out) {
    const uint8_t* qs = block.qs + 32 * (b / 4);
    const int shift = 2 * (b % 4);
    for (int i = 0; i < 32; i++) out[i] = qs[i] >> shift & 3;
}

void codes(const BlockQ3_K& block, int b, uint8_t* out) {
    const uint8_t* qs = block.qs + 32 * (b / 4);
    const int shift = 2 * (b % 4);
    for (int i = 0; i < 32; i++) out[i] = uint8_t((qs[i] >> shift & 3) | (block.hmask[i] >> b & 1) << 2);
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

// `quads`: 8 x 64 bytes, one code a byte, quad after quad; into the planes of the layout.
template <int bits>
void put_codes(const uint8_t* quads, uint8_t* out) {
    if constexpr (bits == 8) std::memcpy(out, quads, 512);
    if constexpr (bits >= 4 && bits <= 6)
        for (int i = 0; i < 256; i++) out[i] = uint8_t((quads[i] & 0x0f) | quads[256 + i] << 4);
    if constexpr (bits == 5)
        for (int i = 0; i < 64; i++) {
            int byte = 0;
            for (int j = 0; j < 8; j++) byte |= (quads[64 * j + i] >> 4 & 1) << j;
            out[256 + i] = uint8_t(byte);
        }
    if constexpr (bits == 2 || bits == 3 || bits == 6) {
        uint8_t* plane = bits == 6 ? out + 256 : out;
        const int shift = bits == 6 ? 4 : 0;
        for (int v = 0; v < 2; v++)
            for (int i = 0; i < 64; i++) {
                int byte = 0;
                for (int j = 0; j < 4; j++) byte |= (quads[256 * v + 64 * j + i] >> shift & 3) << 2 * j;
                plane[64 * v + i] = uint8_t(byte);
            }
    }
    if constexpr (bits == 3)
        for (int i = 0; i < 64; i++) {
            int byte = 0;
            for (int j = 0; j < 8; j++) byte |= (quads[64 * j + i] >> 2 & 1) << j;
            out[128 + i] = uint8_t(byte);
        }
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
    }
}

}  // namespace freehold
