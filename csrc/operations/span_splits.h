// Attention shared out to threads span by span: where the states of each split lie, and who comes last.
#pragma once

#include <atomic>
#include <vector>

#include "program.h"

namespace freehold {

class SpanSplits {
  public:
    void clear() {
        splits_.clear();
        floats_ = 0;
    }
    // Splits an item over its spans, of which each leaves `state_floats`: an item for each, as `span0`, `span1` say.
    template <class Item>
    void add(std::vector<Item>& items, Item item, int spans, size_t state_floats) {
        item.split = int(splits_.size());
        splits_.push_back({floats_, spans});
        floats_ += size_t(spans) * state_floats;
        for (item.span0 = 0; item.span0 < spans; item.span0++) {
            item.span1 = item.span0 + 1;
            items.push_back(item);
        }
    }
    // Makes room, once the step's splits are all there.
    void prepare(Context& context) {
        if (context.states.size() < floats_) context.states.resize(floats_);
        if (done_.size() < splits_.size()) done_ = std::vector<std::atomic<int>>(splits_.size());
        for (auto& done : done_) done.store(0, std::memory_order_relaxed);
    }
    float* states(Context& context, int split) const { return context.states.data() + splits_[size_t(split)].offset; }
    int spans(int split) const { return splits_[size_t(split)].spans; }
    // Notes that a span is done: whether it was the split's last, after which all its states may be read.
    bool finish_span(int split) {
        return done_[size_t(split)].fetch_add(1, std::memory_order_acq_rel) + 1 == spans(split);
    }

  private:
    struct Split {
        size_t offset;
        int spans;
    };

    std::vector<Split> splits_;
    size_t floats_ = 0;
    std::vector<std::atomic<int>> done_;
};

}  // namespace freehold
