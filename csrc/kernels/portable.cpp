#include "kernels/simd_portable.h"

#include "kernels/table.h"

namespace freehold {
extern const Kernels portable_kernels;
const Kernels portable_kernels = make_kernels<Portable>("portable");
}  // namespace freehold
