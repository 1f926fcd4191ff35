// How weights lie in memory once loaded: panels of 16 rows, so that one vector lane is one output.
//
// A panel holds, for each 32 columns, the codes of its 16 rows in the order that byte dot products want
// (quad j = columns 4j..4j+3: 64 bytes, row r at bytes 4r..4r+3), then a plane of scales:
//
//   codes   8 bits   8 x 64 bytes, quad after quad
//           4 bits   4 x 64 bytes: quad j in the low nibbles of vector j, quad j+4 in the high ones
//           5 bits   4 bits, then 64 bytes whose bit j is the fifth bit of quad j
//           6 bits   4 bits, then 2 x 64 bytes: quad j in bits 2(j%4).. of vector j/4
//           2 bits   2 x 64 bytes as above;  3 bits: 2 bits, then 64 bytes whose bit j is the third bit of quad j
//   scales  see ScaleKind; the figures of 16 rows lie side by side
//
// Unquantized weights are panels of [column][16 rows]; those of FP8 with a plane of scales behind them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "formats/blocks.h"
#include "memory.h"

namespace freehold {

inline constexpr int kPanelRows = 16;
inline constexpr int kBlock = 32;   // columns that share one activation scale
inline constexpr int kSuper = 256;  // columns of a K-quant's super-block

enum class ScaleKind : uint8_t {
    None,        // unquantized
    Half,        // per 32 columns: 16 half scales
    HalfMin,     // per 32 columns: 16 half scales, 16 half minima
    K32Min,      // per 256: 16 half d, 16 half -dmin, then 8 x 16 u8 scales, 8 x 16 u8 minima
    K16Min,      // per 256: 16 half d, 16 half -dmin, then 16 x 16 bytes (scale | minimum << 4)
    K16,         // per 256: 16 half d, then 16 x 16 s8 scales
    K32,         // per 256: 16 half d, then 8 x 16 s8 scales
    Exponent,    // per 32 columns: 16 bytes e; the scale is 2^(e - 128)
    HalfZero,    // per 32 columns: 16 half scales, 16 bytes of zero points
    BfloatZero,  // per 32 columns: 16 bfloat16 scales, 16 bytes of zero points
    Float32,     // per 32 columns: 16 floats; of FP8, 256 times the scale (see kFp8Factor)
    Float128,    // per 128 columns: the same
};

struct PackedLayout {
    int bits;          // of a code; 0 for weights that are multiplied as floats
    int group;         // columns that share one weight scale: 32 or 16
    int offset_shift;  // weight = scale * (code - 2^offset_shift); -1: no offset (codes carry a minimum)
    bool wide;         // codes may exceed 127
    bool lookup;       // codes index `levels` (then code = level + 2^offset_shift)
    const int8_t* levels;
    ScaleKind scales;
};

constexpr PackedLayout packed_layout(Format format) {
    switch (format) {
        case Format::Q4_0:
            return {4, 32, 3, false, false, nullptr, ScaleKind::Half};
        case Format::Q4_1:
            return {4, 32, -1, false, false, nullptr, ScaleKind::HalfMin};
        case Format::Q5_0:
            return {5, 32, 4, false, false, nullptr, ScaleKind::Half};
        case Format::Q5_1:
            return {5, 32, -1, false, false, nullptr, ScaleKind::HalfMin};
        case Format::Q8_0:
            return {8, 32, 7, true, false, nullptr, ScaleKind::Half};
        case Format::Q2_K:
            return {2, 16, -1, false, false, nullptr, ScaleKind::K16Min};
        case Format::Q3_K:
            return {3, 16, 2, false, false, nullptr, ScaleKind::K16};
        case Format::Q4_K:
            return {4, 32, -1, false, false, nullptr, ScaleKind::K32Min};
        case Format::Q5_K:
            return {5, 32, -1, false, false, nullptr, ScaleKind::K32Min};
        case Format::Q6_K:
            return {6, 16, 5, false, false, nullptr, ScaleKind::K16};
        case Format::IQ4_NL:
            return {4, 32, 7, true, true, kIq4Levels, ScaleKind::Half};
        case Format::IQ4_XS:
            return {4, 32, 7, true, true, kIq4Levels, ScaleKind::K32};
        case Format::MXFP4:
            return {4, 32, 4, false, true, kFp4Levels, ScaleKind::Exponent};
        case Format::INT4_F16:
            return {4, 32, -1, false, false, nullptr, ScaleKind::HalfZero};
        case Format::INT4_BF16:
            return {4, 32, -1, false, false, nullptr, ScaleKind::BfloatZero};
        case Format::FP8_32:
            return {0, 1, -1, false, false, nullptr, ScaleKind::Float32};
        case Format::FP8_128:
            return {0, 1, -1, false, false, nullptr, ScaleKind::Float128};
        case Format::F32:
        case Format::F16:
        case Format::BF16:
            break;
    }
    return {0, 1, -1, false, false, nullptr, ScaleKind::None};
}

constexpr bool is_quantized(Format format) { return packed_layout(format).bits != 0; }

// Bytes of the scales of one super-block (or of one block, for formats without super-blocks).
constexpr int scale_unit_bytes(ScaleKind kind) {
    switch (kind) {
        case ScaleKind::Half:
            return 32;
        case ScaleKind::HalfMin:
            return 64;
        case ScaleKind::K32Min:
            return 64 + 256;
        case ScaleKind::K16Min:
            return 64 + 256;
        case ScaleKind::K16:
            return 32 + 256;
        case ScaleKind::K32:
            return 32 + 128;
        case ScaleKind::Exponent:
            return 16;
        case ScaleKind::HalfZero:
        case ScaleKind::BfloatZero:
            return 32 + 16;
        case ScaleKind::Float32:
        case ScaleKind::Float128:
            return 64;
        case ScaleKind::None:
            break;
    }
    return 0;
}

constexpr int scale_unit_columns(ScaleKind kind) {
    switch (kind) {
        case ScaleKind::K32Min:
        case ScaleKind::K16Min:
        case ScaleKind::K16:
        case ScaleKind::K32:
            return kSuper;
        case ScaleKind::Float128:
            return 128;
        default:
            return kBlock;
    }
}

constexpr int code_block_bytes(int bits) { return bits * 64; }

// E4M3's bits moved into a binary16 make its value over 256.
inline constexpr float kFp8Factor = 256;

// Bytes of one panel of `cols` columns, a multiple of 64.
size_t panel_bytes(Format format, int cols);

// A weight matrix of `rows` outputs by `cols` inputs, in memory that it shares with others.
struct PackedWeight {
    Format format = Format::F32;
    int rows = 0;
    int cols = 0;
    size_t panel_stride = 0;  // bytes
    uint8_t* data = nullptr;
    std::shared_ptr<const Pages> pages;

    int num_panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
    const uint8_t* panel(int index) const { return data + size_t(index) * panel_stride; }
};

// Repacks panel `index` of `weight` from the file's blocks (`source`: all rows, row after row). Rows past the end
// become zeros.
void pack_panel(const PackedWeight& weight, const uint8_t* source, int index);

}  // namespace freehold
