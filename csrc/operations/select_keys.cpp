#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <stdexcept>

#include "operations/common.h"
#include "operations/key_rows.h"

namespace freehold {
namespace {

// An item is one token, over all spans of its keys; when there are few of these, one span, and who finishes the last
// chooses. A token that may see all of its past has nothing to rank.
class SelectKeys : public Operation {
  public:
    SelectKeys(Context& context, SelectKeysOptions options)
        : options_(std::move(options)), keys_(context.cache.rows.at(size_t(options_.keys))) {
        context.reserve_scratch(sizeof(float) * (padded_heads() * size_t(keys_.stride) + size_t(options_.num_heads) +
                                                 rank_scratch_floats(options_.num_heads, keys_.stride)));
    }
    std::string name() const override { return "select keys"; }

    int plan(Context& context) override {
        items_.clear();
        spans_.clear();
        int longest = 0;
        const int rows = context.step.num_rows();
        const bool few = rows < kItemsOfThread * context.num_threads;
        for (const StepRequest& request : context.step.requests) {
            longest = std::max(longest, request.position + request.num_rows);
            for (int row = 0; row < request.num_rows; row++) {
                const int keys = request.position + row + 1;
                const int spans = keys <= options_.top_k ? 0 : (keys + kSpan - 1) / kSpan;
                Item item{&request, row, 0, spans};
                spans_.push_back(spans);
                if (!few || spans <= 1) {
                    items_.push_back(item);
                    continue;
                }
                for (item.span0 = 0; item.span0 < spans; item.span0++) {
                    item.span1 = item.span0 + 1;
                    items_.push_back(item);
                }
            }
        }
        by_row_ = few;
        rank_stride_ = size_t(longest + kSpan - 1) / kSpan * kSpan;
        const size_t slots = size_t(few ? rows : context.num_threads);
        if (ranks_.size() < slots * rank_stride_) ranks_.resize(slots * rank_stride_);
        if (order_.size() < size_t(context.num_threads) * rank_stride_)
            order_.resize(size_t(context.num_threads) * rank_stride_);
        if (done_.size() < size_t(rows)) done_ = std::vector<std::atomic<int>>(size_t(rows));
        for (auto& done : done_) done.store(0, std::memory_order_relaxed);
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const Item& item = items_[size_t(turn.item)];
        const int row = item.request->first_row + item.row, keys = item.request->position + item.row + 1;
        int32_t* out = buffer_of(context, options_.out).positions(row);
        const int spans = spans_[size_t(row)];
        if (spans == 0) {
            for (int k = 0; k < keys; k++) out[k] = k;
            return;
        }
        float* ranks = ranks_.data() + size_t(by_row_ ? row : turn.thread) * rank_stride_;
        rank(context, item, keys, ranks, turn.thread);
        const int done = item.span1 - item.span0;
        if (done_[size_t(row)].fetch_add(done, std::memory_order_acq_rel) + done == spans)
            choose(ranks, keys, order_.data() + size_t(turn.thread) * rank_stride_, out);
    }

  private:
    static constexpr int kItemsOfThread = 4;

    struct Item {
        const StepRequest* request;
        int row, span0, span1;
    };

    size_t padded_heads() const { return size_t(padded_queries(options_.num_heads)); }

    void rank(Context& context, const Item& item, int keys, float* ranks, int thread) const {
        const int row = item.request->first_row + item.row, heads = options_.num_heads;
        auto* q = reinterpret_cast<float*>(context.scratch[size_t(thread)].data());
        float* weights = q + padded_heads() * size_t(keys_.stride);
        std::fill_n(q, padded_heads() * size_t(keys_.stride), 0.0f);
        const float *from = buffer_of(context, options_.q).row(row),
                    *given = buffer_of(context, options_.weights).row(row);
        const float scale = 1 / std::sqrt(float(keys_.width)), share = 1 / std::sqrt(float(heads));
        for (int head = 0; head < heads; head++) {
            for (int c = 0; c < keys_.width; c++) q[head * keys_.stride + c] = from[head * keys_.width + c] * scale;
            weights[head] = given[head] * share;
        }
        for (int span = item.span0; span < item.span1; span++) {
            const int first = span * kSpan, count = std::min(kSpan, keys - first);
            const SpanRows rows(context, *item.request, keys_, first, count);
            context.kernels->rank_keys(
                {.keys = {context.cache.row_format(), count, rows.data(), nullptr, keys_.stride, 0, rows.scales()},
                 .q = q,
                 .weights = weights,
                 .num_heads = heads,
                 .ranks = ranks + first,
                 .scratch = weights + heads});
        }
    }

    // Integers in the order of the floats; a NaN is above all.
    static uint32_t ordered(float x) {
        if (x != x) return 0xffffffff;
        uint32_t bits;
        x += 0.0f;  // -0 becomes 0
        std::memcpy(&bits, &x, 4);
        return bits >> 31 ? ~bits : bits | 0x80000000;
    }

    // The positions of the top_k largest ranks, ascending; of equal ranks the earlier positions.
    void choose(const float* ranks, int keys, uint32_t* order, int32_t* out) const {
        const int count = options_.top_k;
        for (int k = 0; k < keys; k++) order[k] = ordered(ranks[k]);
        std::nth_element(order, order + count - 1, order + keys, std::greater<uint32_t>());
        const uint32_t least = order[count - 1];
        int equal = count - int(std::count_if(order, order + count, [=](uint32_t x) { return x > least; }));
        for (int k = 0, taken = 0; taken < count; k++) {
            const uint32_t own = ordered(ranks[k]);
            if (own > least || (own == least && equal-- > 0)) out[taken++] = k;
        }
    }

    SelectKeysOptions options_;
    RowCache keys_;
    bool by_row_ = false;  // ranks are kept for each row, not for each thread
    size_t rank_stride_ = 0;
    std::vector<Item> items_;
    std::vector<int> spans_;  // of each row; 0: all of its past is chosen
    std::vector<float> ranks_;
    std::vector<uint32_t> order_;
    std::vector<std::atomic<int>> done_;
};

}  // namespace

void add_select_keys(Program& program, SelectKeysOptions options) {
    const RowCache& keys = program.context().cache.rows.at(size_t(options.keys));
    if (options.num_heads < 1 || options.top_k < 1) throw std::invalid_argument("select keys: heads or top_k");
    check_width(program, options.q, options.num_heads * keys.width, "select keys");
    check_width(program, options.weights, options.num_heads, "select keys");
    check_width(program, options.out, options.top_k, "select keys");
    program.add(std::make_unique<SelectKeys>(program.context(), std::move(options)));
}

}  // namespace freehold
