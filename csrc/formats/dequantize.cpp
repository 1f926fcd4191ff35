#include <cmath>
#include <cstring>
#include <stdexcept>
#include <string>
#include "formats/blocks.h"
#include "formats/half.h"
namespace freehold {
namespace {
const FormatInfo kInfo[kNumFormats] = {
    {"F32", 1, 4},      {"F16", 1, 2},      {"BF16", 1, 2},        {"Q4_0", 32, 18},     {"Q4_1", 32, 20},
    {"Q5_0", 32, 22},   {"Q5_1", 32, 24},   {"Q8_0", 32, 34},      {"Q2_K", 256, 84},    {"Q3_K", 256, 110},
    {"Q4_K", 256, 144}, {"Q5_K", 256, 176}, {"Q6_K", 256, 210},    {"IQ4_NL", 32, 18},   {"IQ4_XS", 256, 136},
    {"MXFP4", 32, 17},  {"FP8_32", 32, 36}, {"FP8_128", 128, 132}, {"INT4_F16", 32, 19}, {"INT4_BF16", 32, 19}};
void k4(const uint8_t* p, int b, float& sc, float& m) {
    if (b < 4) {
        sc = p[b] & 63;
        m = p[b + 4] & 63;
    } else {
        sc = float((p[b + 4] & 15) | (p[b - 4] >> 6) << 4);
        m = float((p[b + 4] >> 4) | (p[b] >> 6) << 4);
    }
}
void deq(const BlockQ4_0& b, float* o) {
    float d = half_to_float(b.d);
    for (int i = 0; i < 16; i++) {
        o[i] = d * float((b.qs[i] & 15) - 8);
        o[i + 16] = d * float((b.qs[i] >> 4) - 8);
    }
}
void deq(const BlockQ4_1& b, float* o) {
    float d = half_to_float(b.d), m = half_to_float(b.m);
    for (int i = 0; i < 16; i++) {
        o[i] = d * float(b.qs[i] & 15) + m;
        o[i + 16] = d * float(b.qs[i] >> 4) + m;
    }
}
int h5(const uint8_t* qh, int i) {
    uint32_t h;
    std::memcpy(&h, qh, 4);
    return int(h >> i & 1) << 4;
}
void deq(const BlockQ5_0& b, float* o) {
    float d = half_to_float(b.d);
    for (int i = 0; i < 16; i++) {
        o[i] = d * float(((b.qs[i] & 15) | h5(b.qh, i)) - 16);
        o[i + 16] = d * float(((b.qs[i] >> 4) | h5(b.qh, i + 16)) - 16);
    }
}
void deq(const BlockQ5_1& b, float* o) {
    float d = half_to_float(b.d), m = half_to_float(b.m);
    for (int i = 0; i < 16; i++) {
        o[i] = d * float((b.qs[i] & 15) | h5(b.qh, i)) + m;
        o[i + 16] = d * float((b.qs[i] >> 4) | h5(b.qh, i + 16)) + m;
    }
}
void deq(const BlockQ8_0& b, float* o) {
    float d = half_to_float(b.d);
    for (int i = 0; i < 32; i++) o[i] = d * float(b.qs[i]);
}
void deq(const BlockQ4_K& b, float* o) {
    float d = half_to_float(b.d), dm = half_to_float(b.dmin);
    for (int j = 0; j < 8; j++) {
        float sc, m;
        k4(b.scales, j, sc, m);
        float dl = d * sc, ml = dm * m;
        for (int i = 0; i < 32; i++) o[32 * j + i] = dl * float(b.qs[32 * (j / 2) + i] >> 4 * (j % 2) & 15) - ml;
    }
}
void deq(const BlockQ5_K& b, float* o) {
    float d = half_to_float(b.d), dm = half_to_float(b.dmin);
    for (int j = 0; j < 8; j++) {
        float sc, m;
        k4(b.scales, j, sc, m);
        float dl = d * sc, ml = dm * m;
        for (int i = 0; i < 32; i++)
            o[32 * j + i] = dl * float((b.qs[32 * (j / 2) + i] >> 4 * (j % 2) & 15) | (b.qh[i] >> j & 1) << 4) - ml;
    }
}
void deq(const BlockQ6_K& b, float* o) {
    float d = half_to_float(b.d);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) {
            int q = (b.ql[64 * (j / 4) + 32 * (j % 2) + i] >> 4 * (j % 4 / 2) & 15) |
                    (b.qh[32 * (j / 4) + i] >> 2 * (j % 4) & 3) << 4;
            o[32 * j + i] = d * float(b.scales[2 * j + i / 16]) * float(q - 32);
        }
}
void deq(const BlockQ2_K& b, float* o) {
    float d = half_to_float(b.d), dm = half_to_float(b.dmin);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) {
            int s = b.scales[2 * j + i / 16];
            o[32 * j + i] = d * float(s & 15) * float(b.qs[32 * (j / 4) + i] >> 2 * (j % 4) & 3) - dm * float(s >> 4);
        }
}
void deq(const BlockQ3_K& b, float* o) {
    float d = half_to_float(b.d);
    for (int j = 0; j < 8; j++)
        for (int i = 0; i < 32; i++) {
            int g = 2 * j + i / 16;
            int lo = g < 8 ? b.scales[g] & 15 : b.scales[g - 8] >> 4, hi = b.scales[8 + g % 4] >> 2 * (g / 4) & 3;
            int q = (b.qs[32 * (j / 4) + i] >> 2 * (j % 4) & 3) - ((b.hmask[i] >> j & 1) ? 0 : 4);
            o[32 * j + i] = d * float((lo | hi << 4) - 32) * float(q);
        }
}
void deq(const BlockIQ4_NL& b, float* o) {
    float d = half_to_float(b.d);
    for (int i = 0; i < 16; i++) {
        o[i] = d * kIq4Levels[b.qs[i] & 15];
        o[i + 16] = d * kIq4Levels[b.qs[i] >> 4];
    }
}
void deq(const BlockIQ4_XS& b, float* o) {
    float d = half_to_float(b.d);
    for (int j = 0; j < 8; j++) {
        int ls = (b.scales_l[j / 2] >> 4 * (j % 2) & 15) | (b.scales_h >> 2 * j & 3) << 4;
        float dl = d * float(ls - 32);
        for (int i = 0; i < 16; i++) {
            o[32 * j + i] = dl * kIq4Levels[b.qs[16 * j + i] & 15];
            o[32 * j + i + 16] = dl * kIq4Levels[b.qs[16 * j + i] >> 4];
        }
    }
}
void deq(const BlockMXFP4& b, float* o) {
    float d = std::ldexp(1.0f, int(b.e) - 128);
    for (int i = 0; i < 16; i++) {
        o[i] = d * kFp4Levels[b.qs[i] & 15];
        o[i + 16] = d * kFp4Levels[b.qs[i] >> 4];
    }
}
template <int n>
void deq(const BlockFP8<n>& b, float* o) {
    for (int i = 0; i < n; i++) o[i] = e4m3_to_float(b.q[i]) * b.d;
}
void deq_int4(const BlockINT4& b, float d, float* o) {
    for (int i = 0; i < 16; i++) {
        o[i] = d * float((b.qs[i] & 15) - b.zero);
        o[i + 16] = d * float((b.qs[i] >> 4) - b.zero);
    }
}
uint16_t scale_bits(const BlockINT4& b) { return uint16_t(b.d[0] | b.d[1] << 8); }
template <class B>
void run(const void* p, float* o, size_t n, int e) {
    auto* b = static_cast<const B*>(p);
    for (size_t i = 0; i < n / e; i++) deq(b[i], o + i * e);
}
}  // namespace
const FormatInfo& format_info(Format f) { return kInfo[int(f)]; }
Format format_from_name(const char* name) {
    for (int i = 0; i < kNumFormats; i++)
        if (!std::strcmp(kInfo[i].name, name)) return Format(i);
    throw std::invalid_argument(std::string("unknown format ") + name);
}
void dequantize(Format f, const void* p, float* o, size_t n) {
    const int e = kInfo[int(f)].block_elements;
    switch (f) {
        case Format::F32:
            std::memcpy(o, p, 4 * n);
            break;
        case Format::F16:
            for (size_t i = 0; i < n; i++) o[i] = half_to_float(static_cast<const uint16_t*>(p)[i]);
            break;
        case Format::BF16:
            for (size_t i = 0; i < n; i++) o[i] = bf16_to_float(static_cast<const uint16_t*>(p)[i]);
            break;
        case Format::Q4_0:
            return run<BlockQ4_0>(p, o, n, e);
        case Format::Q4_1:
            return run<BlockQ4_1>(p, o, n, e);
        case Format::Q5_0:
            return run<BlockQ5_0>(p, o, n, e);
        case Format::Q5_1:
            return run<BlockQ5_1>(p, o, n, e);
        case Format::Q8_0:
            return run<BlockQ8_0>(p, o, n, e);
        case Format::Q2_K:
            return run<BlockQ2_K>(p, o, n, e);
        case Format::Q3_K:
            return run<BlockQ3_K>(p, o, n, e);
        case Format::Q4_K:
            return run<BlockQ4_K>(p, o, n, e);
        case Format::Q5_K:
            return run<BlockQ5_K>(p, o, n, e);
        case Format::Q6_K:
            return run<BlockQ6_K>(p, o, n, e);
        case Format::IQ4_NL:
            return run<BlockIQ4_NL>(p, o, n, e);
        case Format::IQ4_XS:
            return run<BlockIQ4_XS>(p, o, n, e);
        case Format::MXFP4:
            return run<BlockMXFP4>(p, o, n, e);
        case Format::FP8_32:
            return run<BlockFP8<32>>(p, o, n, e);
        case Format::FP8_128:
            return run<BlockFP8<128>>(p, o, n, e);
        case Format::INT4_F16:
        case Format::INT4_BF16: {
            const auto to_float = f == Format::INT4_F16 ? half_to_float : bf16_to_float;
            const auto* blocks = static_cast<const BlockINT4*>(p);
            for (size_t i = 0; i < n / e; i++) deq_int4(blocks[i], to_float(scale_bits(blocks[i])), o + i * e);
            break;
        }
    }
}
}  // namespace freehold
