// The quantized blocks of GGUF, byte for byte (reference: ggml-common.h and gguf-py's quants.py), and those that labs'
// own formats are laid out in (see published.h).
// Every tensor row is a sequence of blocks; a block holds `block_elements` consecutive weights of one row.
#pragma once

#include <cstddef>
#include <cstdint>

namespace freehold {

enum class Format : uint8_t {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K,
    Q4_K,
    Q5_K,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    MXFP4,
    FP8_32,
    FP8_128,
    INT4_F16,
    INT4_BF16,
};
inline constexpr int kNumFormats = 20;

using half_bits = uint16_t;  // an IEEE binary16, as stored

struct BlockQ4_0 {
    half_bits d;
    uint8_t qs[16];
};  // w = d (q - 8)
struct BlockQ4_1 {
    half_bits d, m;
    uint8_t qs[16];
};  // w = d q + m
struct BlockQ5_0 {
    half_bits d;
    uint8_t qh[4], qs[16];
};  // w = d (q - 16)
struct BlockQ5_1 {
    half_bits d, m;
    uint8_t qh[4], qs[16];
};  // w = d q + m
struct BlockQ8_0 {
    half_bits d;
    int8_t qs[32];
};  // w = d q
struct BlockQ2_K {
    uint8_t scales[16], qs[64];
    half_bits d, dmin;
};  // w = d sc q - dmin m, groups of 16
struct BlockQ3_K {
    uint8_t hmask[32], qs[64], scales[12];
    half_bits d;
};  // w = d (sc - 32) (q - 4), groups of 16
struct BlockQ4_K {
    half_bits d, dmin;
    uint8_t scales[12], qs[128];
};  // w = d sc q - dmin m, groups of 32
struct BlockQ5_K {
    half_bits d, dmin;
    uint8_t scales[12], qh[32], qs[128];
};  // the same with a fifth bit
struct BlockQ6_K {
    uint8_t ql[128], qh[64];
    int8_t scales[16];
    half_bits d;
};  // w = d sc (q - 32), groups of 16
struct BlockIQ4_NL {
    half_bits d;
    uint8_t qs[16];
};  // w = d table[q]
struct BlockIQ4_XS {
    half_bits d;
    uint16_t scales_h;
    uint8_t scales_l[4], qs[128];
};  // w = d (sc - 32) table[q]
struct BlockMXFP4 {
    uint8_t e;
    uint8_t qs[16];
};  // w = 2^(e - 127) fp4[q]
template <int columns>
struct BlockFP8 {
    float d;
    uint8_t q[columns];
};  // w = d e4m3(q)
struct BlockINT4 {
    uint8_t d[2];  // binary16 or bfloat16
    uint8_t zero;  // 0 to 15
    uint8_t qs[16];
};  // w = d (q - zero)

// IQ4_NL's and IQ4_XS's levels, and the doubled levels of OCP FP4 (E2M1).
inline constexpr int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
inline constexpr int8_t kFp4Levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

struct FormatInfo {
    const char* name;
    int block_elements;
    int block_bytes;
};

const FormatInfo& format_info(Format format);

// Throws std::invalid_argument for a name that is not in the table.
Format format_from_name(const char* name);

// Dequantizes `count` consecutive weights (a multiple of the format's block) exactly as gguf-py's quants.py does.
void dequantize(Format format, const void* blocks, float* out, size_t count);

}  // namespace freehold
