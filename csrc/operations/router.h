// The choice of a row's experts: see `Router` in ops.py, whose rule this is.
#pragma once

#include <vector>

#include "operations.h"

namespace freehold {

class Router {
  public:
    // Throws std::invalid_argument for what cannot be chosen.
    Router(RouterOptions options, int num_experts);

    int top_k() const { return options_.top_k; }
    size_t scratch_floats() const { return size_t(2 * num_experts_ + 2 * options_.num_groups); }

    // The experts of a row, in their order, and their weights: [top_k] each.
    void choose(const Kernels& kernels, const float* logits, float* scratch, int* chosen, float* weights) const;

  private:
    void keep_best_groups(float* ranked, float* scratch) const;

    RouterOptions options_;
    int num_experts_;
};

}  // namespace freehold
