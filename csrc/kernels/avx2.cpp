#include "kernels/simd_avx2.h"

#include "kernels/table.h"

namespace freehold {
extern const Kernels avx2_kernels;
const Kernels avx2_kernels = make_kernels<Avx2>("avx2");
}  // namespace freehold
