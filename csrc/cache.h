// Where the past of requests lies.
//
// A page holds kKvBlock consecutive tokens for all layers: keys and values of the layers with attention, then the rows
// that other layers keep of each token. A block, which the engine hands out, is one page or several; beside its pages
// it has the states as they are after its last token.
#pragma once

#include <vector>

#include "kernels/kernels.h"

namespace freehold {

// Rows of `width` elements that a layer keeps of each token: [token of the page][stride], zeros behind the width; of
// Int16 then the rows' scales.
struct RowCache {
    int width, stride;  // the stride is the width rounded up to kRowColumns
    size_t offset;      // in a page
};

struct CacheLayout {
    KvLayout kv;        // `layers` counts those with attention
    int num_pages = 1;  // of a block
    std::vector<RowCache> rows;
    size_t row_bytes = 0;     // of all `rows`, in a page
    size_t state_floats = 0;  // of a block

    // Elements of rows are those of keys and values; but 16-bit integers for int8, which are too coarse for whole rows.
    RowFormat row_format() const {
        if (kv.format == KvFormat::BF16) return RowFormat::BF16;
        return kv.format == KvFormat::F32 ? RowFormat::F32 : RowFormat::Int16;
    }
    size_t row_element_bytes() const { return row_format() == RowFormat::F32 ? 4 : 2; }
    size_t page_bytes() const { return kv.block_bytes() + row_bytes; }
    size_t block_bytes() const { return page_bytes() * size_t(num_pages) + state_floats * sizeof(float); }

    // The index of new rows.
    int add_rows(int width) {
        const int stride = (width + kRowColumns - 1) / kRowColumns * kRowColumns;
        rows.push_back({width, stride, kv.block_bytes() + row_bytes});
        const size_t scale_bytes = row_format() == RowFormat::Int16 ? sizeof(float) : 0;
        row_bytes += kKvBlock * (size_t(stride) * row_element_bytes() + scale_bytes);  // a multiple of 64
        return int(rows.size()) - 1;
    }
    // Where a new state of `floats` begins among a block's.
    size_t add_state(size_t floats) {
        const size_t offset = state_floats;
        state_floats += (floats + 15) / 16 * 16;
        return offset;
    }
};

}  // namespace freehold
