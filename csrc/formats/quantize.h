// Floats into the quantized blocks of blocks.h.
#pragma once

#include <cstddef>

#include "formats/blocks.h"

namespace freehold {

// `count` values of one row (a multiple of the format's block) into blocks. `importance`: one weight a column, or null
// for all alike. Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 and MXFP4 without importance are those of gguf-py's quants.py, byte for
// byte. Throws std::invalid_argument for a format that is not quantized to.
void quantize(Format format, const float* values, const float* importance, size_t count, void* blocks);

bool can_quantize(Format format);

}  // namespace freehold
