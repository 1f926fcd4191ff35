// Where the rows that a layer keeps of a request's tokens lie.
#pragma once

#include <cstdint>

#include "program.h"

namespace freehold {

// The row of a page that holds what is kept of the token at `position`.
inline uint8_t* kept_row(const Context& context, const StepRequest& request, const RowCache& rows, int position) {
    const int page = request.pages[size_t(position / kKvBlock)];
    return context.cached_rows(page, rows) +
           size_t(position % kKvBlock) * size_t(rows.stride) * context.cache.row_element_bytes();
}

// Where its scale lies, of Int16.
inline float* kept_scale(const Context& context, const StepRequest& request, const RowCache& rows, int position) {
    const int page = request.pages[size_t(position / kKvBlock)];
    const size_t codes_bytes = kKvBlock * size_t(rows.stride) * context.cache.row_element_bytes();
    return reinterpret_cast<float*>(context.cached_rows(page, rows) + codes_bytes) + position % kKvBlock;
}

// Rows of up to kSpan keys: those at positions first, first + 1, ..., or at the positions `selected`.
class SpanRows {
  public:
    SpanRows(const Context& context, const StepRequest& request, const RowCache& rows, int first, int count) {
        for (int k = 0; k < count; k++) add(context, request, rows, k, first + k);
        fill(count);
    }
    SpanRows(const Context& context, const StepRequest& request, const RowCache& rows, const int32_t* selected,
             int count) {
        for (int k = 0; k < count; k++) add(context, request, rows, k, selected[k]);
        fill(count);
    }
    const uint8_t* const* data() const { return at_; }
    const float* scales() const { return scales_; }

  private:
    void add(const Context& context, const StepRequest& request, const RowCache& rows, int k, int position) {
        at_[k] = kept_row(context, request, rows, position);
        if (context.cache.row_format() == RowFormat::Int16) scales_[k] = *kept_scale(context, request, rows, position);
    }
    // Kernels read whole blocks of keys.
    void fill(int count) {
        for (int k = count; k % kKvBlock; k++) at_[k] = at_[count - 1], scales_[k] = scales_[count - 1];
    }

    const uint8_t* at_[kSpan];
    float scales_[kSpan] = {};
};

}  // namespace freehold
