// AMX tile operations, by the hardware, and by AVX-512 VNNI (for machines without AMX: the tests' way to run this
// path).
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

namespace freehold {

// The tile shapes of one kernel: A (tile 1) 16 rows x `k` bytes, B (tile 2) k/4 rows x 64 bytes, C (tile 0) 16 x 64
// bytes.
struct alignas(64) TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
};

struct HardwareTiles {
    static void configure(int k) {
        TileConfig config;
        const int bytes[3] = {64, k, 64}, rows[3] = {16, 16, k / 4};
        for (int tile = 0; tile < 3; tile++) {
            config.row_bytes[tile] = uint16_t(bytes[tile]);
            config.rows[tile] = uint8_t(rows[tile]);
        }
        // gcc 12 believes that _tile_loadconfig reads 8 bytes and may drop the stores before it.
        asm volatile("" : : "r"(&config) : "memory");
        _tile_loadconfig(&config);
    }
    static void release() { _tile_release(); }
    // out [16][16] = x [16 rows, stride] . codes [k/4][16][4]
    static inline __attribute__((always_inline)) void multiply(const int8_t* x, size_t stride, const uint8_t* codes,
                                                               int, int32_t* out) {
        _tile_zero(0);
        _tile_loadd(1, x, stride);
        _tile_loadd(2, codes, 64);
        _tile_dpbsud(0, 1, 2);
        _tile_stored(0, out, 64);
    }
};

struct EmulatedTiles {
    static void configure(int) {}
    static void release() {}
    static void multiply(const int8_t* x, size_t stride, const uint8_t* codes, int k, int32_t* out) {
        for (int m = 0; m < 16; m++) {
            __m512i sum = _mm512_setzero_si512();
            for (int quad = 0; quad < k / 4; quad++) {
                int32_t xs;
                std::memcpy(&xs, x + m * stride + 4 * quad, 4);
                sum = _mm512_dpbusd_epi32(sum, _mm512_loadu_si512(codes + 64 * quad), _mm512_set1_epi32(xs));
            }
            _mm512_storeu_si512(out + 16 * m, sum);
        }
    }
};

}  // namespace freehold
