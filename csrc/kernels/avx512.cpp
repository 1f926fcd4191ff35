#include "kernels/simd_avx512.h"

#include "kernels/table.h"

namespace freehold {
extern const Kernels avx512_kernels;
const Kernels avx512_kernels = make_kernels<Avx512>("avx512");
}  // namespace freehold
