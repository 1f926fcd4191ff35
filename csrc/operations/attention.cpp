#include "operations.h"

#include <algorithm>
#include <stdexcept>

#include "operations/common.h"
#include "operations/span_splits.h"

namespace freehold {
namespace {

// Few rows of a request: an item is one span of keys for one KV head, and who finishes a head's last span combines
// them in order. Many rows: an item is a tile of rows for one KV head, over all spans. Both give the same bits.
class Attention : public Operation {
  public:
    explicit Attention(Context& context, AttentionOptions options) : options_(std::move(options)) {
        group_ = options_.num_heads / context.kv.heads;
    }
    std::string name() const override { return "attention"; }

    int plan(Context& context) override {
        items_.clear();
        splits_.clear();
        for (const StepRequest& request : context.step.requests) {
            const int spans = (request.position + request.num_rows + kSpan - 1) / kSpan;
            const bool split = request.num_rows <= kFewRows && spans > 1;
            const int tile = split ? request.num_rows : kTileRows;
            // Head after head, whose keys stay in the cache; the longest tiles first, so that threads end together.
            for (int head = 0; head < context.kv.heads; head++)
                for (int row = (request.num_rows - 1) / tile * tile; row >= 0; row -= tile) {
                    Item item{&request, row, std::min(tile, request.num_rows - row), head, 0, spans, -1};
                    if (split)
                        splits_.add(items_, item, spans, state_floats(context, item));
                    else
                        items_.push_back(item);
                }
        }
        splits_.prepare(context);
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const Item& item = items_[size_t(turn.item)];
        AttentionTask task = task_of(context, item, turn.thread);
        if (task.is_streamed && turn.next >= 0) task.next_keys = first_keys(context, items_[size_t(turn.next)]);
        if (item.split < 0) return context.kernels->attend(task);
        float* states = splits_.states(context, item.split);
        task.states = states + size_t(item.span0) * state_floats(context, item);
        context.kernels->attend(task);
        if (splits_.finish_span(item.split)) context.kernels->combine_states(task, states, splits_.spans(item.split));
    }

  private:
    static constexpr int kFewRows = 4;
    static constexpr int kTileRows = kMaxScoreRows;  // whose heads are a multiple of the kernels' tiles

    struct Item {
        const StepRequest* request;
        int row, num_rows, head, span0, span1;
        int split;  // index, or -1
    };

    // What a span leaves of an item's queries.
    size_t state_floats(const Context& context, const Item& item) const {
        return size_t(item.num_rows) * size_t(group_) * attention_state_floats(context.kv.padded_dim());
    }

    AttentionTask task_of(Context& context, const Item& item, int thread) const {
        const Buffer &q = buffer_of(context, options_.q), &out = buffer_of(context, options_.out);
        const int row = item.request->first_row + item.row;
        const size_t column = size_t(item.head) * group_ * context.kv.head_dim;
        return {.layout = &context.kv,
                .kv = context.kv_head(0, options_.layer, item.head),
                .page_bytes = context.cache.page_bytes(),
                .pages = item.request->pages.data(),
                .q = q.row(row) + column,
                .q_stride = q.stride,
                .out = out.row(row) + column,
                .out_stride = out.stride,
                .num_rows = item.num_rows,
                .group = group_,
                .position = item.request->position + item.row,
                .span0 = item.span0,
                .span1 = item.span1,
                .scale = options_.scale,
                .window = options_.window,
                .chunk = options_.chunk,
                .sinks = options_.sinks.empty() ? nullptr : options_.sinks.data() + size_t(item.head) * group_,
                .states = nullptr,
                .scratch = reinterpret_cast<float*>(context.scratch[size_t(thread)].data()),
                .is_streamed = item.num_rows <= kFewRows,
                .next_keys = nullptr};
    }

    const uint8_t* first_keys(const Context& context, const Item& item) const {
        return context.kv_head(item.request->pages[size_t(item.span0) * (kSpan / kKvBlock)], options_.layer, item.head);
    }

    AttentionOptions options_;
    int group_;
    std::vector<Item> items_;
    SpanSplits splits_;
};

}  // namespace

void add_attention(Program& program, AttentionOptions options) {
    check_width(program, options.q, options.num_heads * program.context().kv.head_dim, "attention");
    check_width(program, options.out, options.num_heads * program.context().kv.head_dim, "attention");
    if (options.window < 0 || options.chunk < 0 ||
        (!options.sinks.empty() && int(options.sinks.size()) != options.num_heads))
        throw std::invalid_argument("attention: window, chunk or sinks");
    program.add(std::make_unique<Attention>(program.context(), std::move(options)));
}

}  // namespace freehold
