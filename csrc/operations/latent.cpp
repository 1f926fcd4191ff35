#include <algorithm>
#include <stdexcept>

#include "operations/common.h"
#include "operations/key_rows.h"
#include "operations/span_splits.h"

namespace freehold {
namespace {

// Each token's attention is that of all heads on the same rows. An item is some heads of one token over all spans of
// its keys; when there are too few of these, one span, and who finishes the last combines them in order. Both give the
// same bits.
class LatentAttention : public Operation {
  public:
    LatentAttention(Context& context, LatentOptions options)
        : options_(std::move(options)),
          latents_(context.cache.rows.at(size_t(options_.latents))),
          rope_keys_(context.cache.rows.at(size_t(options_.rope_keys))),
          state_floats_(attention_state_floats(latents_.stride)) {
        mixed_ = {KvFormat::F32, 1, 1, latents_.stride};
        context.reserve_scratch(
            sizeof(float) * (kLatentQueries * size_t(query_width()) + work_floats() + kLatentQueries * state_floats_));
    }
    std::string name() const override { return "latent attention"; }

    int plan(Context& context) override {
        items_.clear();
        splits_.clear();
        const int rows = context.step.num_rows(), enough = kItemsOfThread * context.num_threads;
        const int heads = heads_of_item(rows, enough);
        const bool few = rows * ((options_.num_heads + heads - 1) / heads) < enough;
        for (const StepRequest& request : context.step.requests)
            for (int row = 0; row < request.num_rows; row++)
                for (int head = 0; head < options_.num_heads; head += heads) {
                    const int spans = (num_keys(request.position + row) + kSpan - 1) / kSpan;
                    Item item{&request, row, head, std::min(heads, options_.num_heads - head), 0, spans, -1};
                    if (few && spans > 1)
                        splits_.add(items_, item, spans, size_t(item.num_heads) * state_floats_);
                    else
                        items_.push_back(item);
                }
        splits_.prepare(context);
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const Item& item = items_[size_t(turn.item)];
        auto* q = reinterpret_cast<float*>(context.scratch[size_t(turn.thread)].data());
        float* work = q + size_t(kLatentQueries) * size_t(query_width());
        float* states = work + work_floats();  // when they do not outlive the item
        const size_t item_floats = size_t(item.num_heads) * state_floats_;
        float* first = nullptr;
        if (item.split >= 0) {
            first = splits_.states(context, item.split);
            states = first + size_t(item.span0) * item_floats;
        }
        gather_queries(context, item, q);
        for (int head = 0; head < item.num_heads; head++) clear(states + size_t(head) * state_floats_);
        for (int span = item.span0; span < item.span1; span++) attend(context, item, span, q, states, work);
        if (item.split < 0) return finish(context, item, states, 1, work);
        if (splits_.finish_span(item.split)) finish(context, item, first, splits_.spans(item.split), work);
    }

  private:
    static constexpr int kItemsOfThread = 4, kLeastHeads = 4;

    struct Item {
        const StepRequest* request;
        int row, head, num_heads, span0, span1;
        int split;  // index, or -1
    };

    int query_width() const { return latents_.stride + rope_keys_.stride; }
    size_t work_floats() const { return latent_scratch_floats(latents_.stride, query_width()); }
    int num_keys(int position) const {
        return options_.selected < 0 ? position + 1 : std::min(position + 1, options_.top_k);
    }

    // Even shares of the heads, and small ones where there are few rows.
    int heads_of_item(int rows, int enough) const {
        const auto share = [&](int parts) { return padded_queries((options_.num_heads + parts - 1) / parts); };
        int parts = (options_.num_heads + kLatentQueries - 1) / kLatentQueries;
        while (rows * parts < enough && share(parts) > kLeastHeads) parts *= 2;
        return share(parts);
    }

    // [heads rounded up to kQueryGroup][latent, rope], scaled.
    void gather_queries(Context& context, const Item& item, float* q) const {
        const int row = item.request->first_row + item.row, rank = latents_.stride;
        const int query = options_.plain_dim + rope_keys_.width;
        std::fill_n(q, size_t(padded_queries(item.num_heads)) * size_t(query_width()), 0.0f);
        for (int i = 0; i < item.num_heads; i++, q += query_width()) {
            const size_t head = size_t(item.head + i);
            const float* absorbed = buffer_of(context, options_.absorbed).row(row) + head * size_t(rank);
            const float* turned = buffer_of(context, options_.q).row(row) + head * size_t(query) + options_.plain_dim;
            for (int c = 0; c < rank; c++) q[c] = absorbed[c] * options_.scale;
            for (int c = 0; c < rope_keys_.width; c++) q[rank + c] = turned[c] * options_.scale;
        }
    }

    void clear(float* state) const {
        std::fill_n(state, state_floats_, 0.0f);
        state[0] = -__builtin_inff();
    }

    void attend(Context& context, const Item& item, int span, const float* q, float* states, float* work) const {
        const int first = span * kSpan, position = item.request->position + item.row;
        const int count = std::min(kSpan, num_keys(position) - first);
        const auto run = [&](const SpanRows& latents, const SpanRows& rope_keys) {
            context.kernels->attend_latents(
                {.keys = {context.cache.row_format(), count, latents.data(), rope_keys.data(), latents_.stride,
                          rope_keys_.stride, latents.scales()},
                 .q = q,
                 .num_queries = item.num_heads,
                 .states = states,
                 .scratch = work});
        };
        if (options_.selected < 0)
            return run({context, *item.request, latents_, first, count},
                       {context, *item.request, rope_keys_, first, count});
        const int32_t* selected =
            buffer_of(context, options_.selected).positions(item.request->first_row + item.row) + first;
        run({context, *item.request, latents_, selected, count}, {context, *item.request, rope_keys_, selected, count});
    }

    void finish(Context& context, const Item& item, const float* states, int spans, float* work) const {
        const Buffer& out = buffer_of(context, options_.out);
        AttentionTask task{};
        task.layout = &mixed_;
        task.out = out.row(item.request->first_row + item.row) + size_t(item.head) * size_t(latents_.stride);
        task.out_stride = out.stride;
        task.num_rows = 1;
        task.group = item.num_heads;
        task.scratch = work;
        context.kernels->combine_states(task, states, spans);
    }

    LatentOptions options_;
    RowCache latents_, rope_keys_;
    size_t state_floats_;
    KvLayout mixed_;  // a head of it is what a query gathers
    std::vector<Item> items_;
    SpanSplits splits_;
};

}  // namespace

void add_keep_rows(Program& program, std::vector<KeptPart> parts) {
    const auto& kept = program.context().cache.rows;
    if (parts.empty()) throw std::invalid_argument("keep rows: no parts");
    for (const KeptPart& part : parts) check_width(program, part.input, kept.at(size_t(part.rows)).width, "keep rows");
    add_rowwise(program, "keep rows", parts[0].input, [=](Context& context, int row, float*) {
        const auto& requests = context.step.requests;
        const auto request = std::find_if(requests.begin(), requests.end(),
                                          [=](const StepRequest& r) { return row < r.first_row + r.num_rows; });
        const int position = context.step.positions[size_t(row)];
        float max = 0;  // of all parts, which have one scale
        for (const KeptPart& part : parts) {
            const Buffer& input = buffer_of(context, part.input);
            const float largest = context.kernels->largest(input.row(row), input.width);
            if (max == max && !(largest <= max)) max = largest;
        }
        for (const KeptPart& part : parts) {
            const RowCache& rows = context.cache.rows[size_t(part.rows)];
            context.kernels->keep_row(context.cache.row_format(), buffer_of(context, part.input).row(row), rows.width,
                                      max, kept_row(context, *request, rows, position),
                                      kept_scale(context, *request, rows, position));
        }
    });
}

void add_latent_attention(Program& program, LatentOptions options) {
    Context& context = program.context();
    const RowCache &latents = context.cache.rows.at(size_t(options.latents)),
                   &rope_keys = context.cache.rows.at(size_t(options.rope_keys));
    check_width(program, options.absorbed, options.num_heads * latents.stride, "latent attention");
    check_width(program, options.out, options.num_heads * latents.stride, "latent attention");
    check_width(program, options.q, options.num_heads * (options.plain_dim + rope_keys.width), "latent attention");
    if (options.selected >= 0) check_width(program, options.selected, options.top_k, "latent attention");
    if (rope_keys.stride > kMaxSecondDim)
        throw std::invalid_argument("latent attention: over " + std::to_string(kMaxSecondDim) + " channels of rope");
    program.add(std::make_unique<LatentAttention>(context, std::move(options)));
}

}  // namespace freehold
