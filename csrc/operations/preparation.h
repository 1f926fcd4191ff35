// What the products of a matrix read: rows, normed if need be, and their int8 codes.
#pragma once

#include <utility>
#include <vector>

#include "operations/common.h"

namespace freehold {

class Preparation {
  public:
    // `norm`: weights of an rms_norm that comes first, or none; `quantize`: codes are wanted.
    Preparation(int input, std::vector<float> norm, float eps, int cols, bool quantize)
        : input_(input), cols_(cols), norm_(std::move(norm)), eps_(eps), quantize_(quantize) {}

    PreparedRows rows(Context& context, const PreparedMemory& memory) const {
        PreparedRows rows = memory.rows(cols_);
        const Buffer& input = buffer_of(context, input_);
        rows.values = norm_.empty() ? input.row(0) : memory.values;
        rows.value_stride = norm_.empty() ? input.stride : memory.value_stride();
        return rows;
    }
    void prepare(Context& context, const PreparedMemory& memory, const PreparedRows& rows, int row) const {
        context.kernels->prepare_row(buffer_of(context, input_).row(row), norm_.empty() ? nullptr : norm_.data(), eps_,
                                     memory.values + size_t(row) * memory.value_stride(), rows, row, quantize_);
    }
    int cols() const { return cols_; }

  private:
    int input_, cols_;
    std::vector<float> norm_;
    float eps_;
    bool quantize_;
};

}  // namespace freehold
