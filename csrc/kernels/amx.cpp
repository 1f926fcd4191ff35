// Many rows on AMX: int8 tiles of 16 rows x 32 (or 16) columns x 16 outputs; the float32 part is the AVX-512 kernel's,
// in its order, so that both give the same bits. Few rows go to the AVX-512 kernel.
#include "kernels/simd_avx512.h"

#include "kernels/amx_tiles.h"
#include "kernels/table.h"

namespace freehold {
namespace {

template <class Tiles>
struct Amx {
    template <class S, Format format>
    struct Linear : LinearKernels<S, format> {
        using Base = LinearKernels<S, format>;
        static constexpr int kTileRows = 16;
        static constexpr int k = Base::L.group;  // columns of one tile product

        // Rows past row1 are multiplied too (the buffers of prepared rows are padded to 16) and dropped.
        static void tile(const LinearTask& t, int panel, int row, const uint8_t* next) {
            const PreparedRows& x = *t.x;
            const int blocks = x.cols / kBlock;
            const int rows = t.row1 - row < kTileRows ? t.row1 - row : kTileRows;
            const uint8_t* plane = Base::panel_at(t, panel) + size_t(blocks) * code_block_bytes(Base::L.bits);
            alignas(64) int32_t products[Base::kGroups][kTileRows * 16];
            __m512 acc[kTileRows];
            for (auto& a : acc) a = S::zero();
            for (int b = 0; b < blocks; b++) {
                if (next) Base::fetch(next, blocks, b);
                for (int g = 0; g < Base::kGroups; g++)
                    Tiles::multiply(x.codes + size_t(row) * x.cols + b * kBlock + g * k, size_t(x.cols),
                                    t.scratch + size_t(b) * 512 + size_t(g) * 16 * k, k, products[g]);
                const auto scales = Base::load_scales(plane, b, 0);
#pragma GCC unroll 16
                for (int r = 0; r < kTileRows; r++) {
                    const size_t at = size_t(row + r) * blocks + b;
                    __m512 first = S::zero();
                    for (int g = 0; g < Base::kGroups; g++) {
                        const __m512i product = _mm512_load_si512(products[g] + 16 * r);
                        Base::add_group(acc[r], first, _mm512_add_epi32(product, Base::initial_dot(x, at, g)), scales,
                                        g, x, at);
                    }
                }
            }
            for (int r = 0; r < rows; r++) Base::finish(t, row + r, panel * kPanelRows, acc[r]);
        }

        static void run(const LinearTask& t) {
            if constexpr (Base::L.bits) {
                if (t.row1 - t.row0 < kUnpackRows) return Base::run(t);
                Tiles::configure(k);
                for (int panel = 0; panel < t.num_panels; panel++) {
                    Base::unpack_to_scratch(t, panel, 1);
                    for (int row = t.row0; row < t.row1; row += kTileRows)
                        tile(t, panel, row, row == t.row0 ? Base::upcoming(t, panel + 1) : nullptr);
                }
                Tiles::release();
            } else {
                Base::run(t);
            }
        }
    };
};

}  // namespace

extern const Kernels amx_kernels, amx_emulated_kernels;
const Kernels amx_kernels = make_kernels<Avx512, Amx<HardwareTiles>::Linear>("amx");
const Kernels amx_emulated_kernels = make_kernels<Avx512, Amx<EmulatedTiles>::Linear>("amx-emulated");

}  // namespace freehold
