// Layers that keep a state for each request, as it is after each block's last row and after the request's last.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>

#include "operations.h"
#include "operations/common.h"

namespace freehold {
namespace {

// Rows of a request that lie in one block.
struct Piece {
    int row, num_rows;
    int block;
};

// The block that holds the state before a request's first row, or -1.
int block_before(const Context& context, const StepRequest& request) {
    const int size = context.cache.num_pages * kKvBlock;
    return request.position ? request.blocks[size_t((request.position - 1) / size)] : -1;
}

// Calls f(piece) for each block that the request's rows lie in.
template <class Function>
void for_pieces(const Context& context, const StepRequest& request, Function f) {
    const int size = context.cache.num_pages * kKvBlock;
    for (int done = 0; done < request.num_rows;) {
        const int position = request.position + done;
        const int count = std::min(request.num_rows - done, size - position % size);
        f(Piece{request.first_row + done, count, request.blocks[size_t(position / size)]});
        done += count;
    }
}

// An item is a run of channels of one request.
class ShortConvolutions : public Operation {
  public:
    ShortConvolutions(Program& program, int taps, std::vector<Convolution> parts)
        : taps_(taps), parts_(std::move(parts)) {
        Context& context = program.context();
        for (Convolution& part : parts_) {  // rows of the weight are padded, as those of buffers
            const Buffer& input = buffer_of(context, part.input);
            std::vector<float> padded(size_t(taps) * input.stride);
            for (int tap = 0; tap < taps; tap++)
                std::copy_n(&part.weight[size_t(tap) * input.width], input.width, &padded[size_t(tap) * input.stride]);
            part.weight = std::move(padded);
        }
        const size_t rows = size_t(taps - 1 + context.limits.max_rows);
        context.reserve_scratch(size_t(taps - 1) * kChannels * sizeof(float) + rows * sizeof(float*));
    }
    std::string name() const override { return "short convolution"; }

    int plan(Context& context) override {
        items_.clear();
        for (const StepRequest& request : context.step.requests)
            for (const Convolution& part : parts_)
                for (int channel = 0; channel < buffer_of(context, part.input).width; channel += kChannels)
                    items_.push_back({&request, &part, channel});
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const auto& [request, part, channel] = items_[size_t(turn.item)];
        const Buffer &input = buffer_of(context, part->input), &out = buffer_of(context, part->out);
        const int count = std::min(kChannels, input.width - channel), before = block_before(context, *request);
        float* history = reinterpret_cast<float*>(context.scratch[size_t(turn.thread)].data());
        auto* rows = reinterpret_cast<const float**>(history + size_t(taps_ - 1) * kChannels);
        for (int tap = 0; tap < taps_ - 1; tap++) {
            float* kept = history + size_t(tap) * kChannels;
            std::fill_n(kept, kChannels, 0.0f);
            if (before >= 0) std::copy_n(state(context, *part, before, tap, input.width) + channel, count, kept);
            rows[tap] = kept;
        }
        for (int row = 0; row < request->num_rows; row++)
            rows[taps_ - 1 + row] = input.row(request->first_row + row) + channel;
        context.kernels->convolve({rows, part->weight.data() + channel, input.stride,
                                   out.row(request->first_row) + channel, out.stride, request->num_rows, taps_,
                                   (count + 15) / 16 * 16});
        for_pieces(context, *request, [&](const Piece& piece) {
            const int end = piece.row + piece.num_rows - request->first_row;
            for (int tap = 0; tap < taps_ - 1; tap++)
                std::copy_n(rows[end + tap], count, state(context, *part, piece.block, tap, input.width) + channel);
        });
    }

  private:
    static constexpr int kChannels = 64;

    struct Item {
        const StepRequest* request;
        const Convolution* part;
        int channel;
    };

    static float* state(Context& context, const Convolution& part, int block, int tap, int width) {
        return context.state(block, part.state) + size_t(tap) * width;
    }

    int taps_;
    std::vector<Convolution> parts_;
    std::vector<Item> items_;
};

// What each row brings to the recurrence: queries and keys of unit length (or silu), decays, strengths.
class PrepareRecurrence : public RowOperation {
  public:
    PrepareRecurrence(Program& program, const RecurrenceOptions& options)
        : RowOperation(options.prepared_q), options_(options) {
        const Context& context = program.context();
        key_dim_ = buffer_of(program.context(), options.q).width / options.num_key_heads;
        if (options.decay < 0) return;
        const Buffer& decay = *context.buffers[size_t(options.decay)];
        const int repeats = decay.width / options.num_heads;
        rate_.resize(decay.stride);
        bias_ = options.decay_bias;
        bias_.resize(decay.stride);
        for (int i = 0; i < decay.width; i++) rate_[size_t(i)] = std::exp(options.rate[size_t(i / repeats)]);
    }
    std::string name() const override { return options_.name + " (prepare)"; }

    void row(Context& context, int index, float* q) override {
        const RecurrenceOptions& o = options_;
        const Kernels& kernels = *context.kernels;
        const auto padded = [&](int buffer) { return int(buffer_of(context, buffer).stride); };
        const auto at = [&](int buffer) { return buffer_of(context, buffer).row(index); };
        if (o.decay < 0) {
            kernels.silu(at(o.q), q, padded(o.q));
            kernels.silu(at(o.k), at(o.prepared_k), padded(o.k));
            kernels.silu(at(o.v), at(o.prepared_v), padded(o.v));
            return;
        }
        kernels.unit_heads(at(o.q), o.num_key_heads, key_dim_, 1 / std::sqrt(float(key_dim_)), q);
        kernels.unit_heads(at(o.k), o.num_key_heads, key_dim_, 1, at(o.prepared_k));
        kernels.decay(at(o.decay), bias_.data(), rate_.data(), at(o.decays), padded(o.decay));
        kernels.sigmoid(at(o.beta), at(o.strengths), padded(o.beta));
    }

  private:
    RecurrenceOptions options_;
    int key_dim_;
    std::vector<float> rate_, bias_;  // of each decay
};

// An item is a slice of one head's state, for all rows of one request.
class Recurrence : public Operation {
  public:
    Recurrence(Program& program, RecurrenceOptions options) : options_(std::move(options)) {
        Context& context = program.context();
        key_dim_ = buffer_of(context, options_.q).width / options_.num_key_heads;
        value_dim_ = buffer_of(context, options_.v).width / options_.num_heads;
        for (float slope : options_.slopes) fixed_decays_.push_back(std::exp(-slope));
        context.reserve_scratch(size_t(key_dim_) * kStateColumns * sizeof(float));
    }
    std::string name() const override { return options_.name; }

    int plan(Context& context) override {
        slices_ = (value_dim_ + kStateColumns - 1) / kStateColumns;
        return int(context.step.requests.size()) * options_.num_heads * slices_;
    }

    void run(Context& context, const Turn& turn) override {
        const int slice = turn.item % slices_, head = turn.item / slices_ % options_.num_heads;
        const StepRequest& request = context.step.requests[size_t(turn.item / slices_ / options_.num_heads)];
        float* local = reinterpret_cast<float*>(context.scratch[size_t(turn.thread)].data());
        RecurrenceTask task = task_of(context, head, slice * kStateColumns);
        task.state = local;
        std::fill_n(local, size_t(key_dim_) * kStateColumns, 0.0f);
        if (const int before = block_before(context, request); before >= 0)
            for (int c = 0; c < key_dim_; c++)
                std::copy_n(state(context, before, head, slice) + size_t(c) * value_dim_, task.num_columns,
                            local + size_t(c) * kStateColumns);
        for_pieces(context, request, [&](const Piece& piece) {
            RecurrenceTask rows = task;
            rows.num_rows = piece.num_rows;
            const auto skip = [&](auto& p, size_t stride) { p += size_t(piece.row) * stride; };
            skip(rows.q, rows.q_stride);
            skip(rows.k, rows.k_stride);
            skip(rows.v, rows.v_stride);
            skip(rows.out, rows.out_stride);
            skip(rows.decay, rows.decay_stride);
            if (rows.strength) skip(rows.strength, rows.strength_stride);
            context.kernels->recur(rows);
            for (int c = 0; c < key_dim_; c++)
                std::copy_n(local + size_t(c) * kStateColumns, task.num_columns,
                            state(context, piece.block, head, slice) + size_t(c) * value_dim_);
        });
    }

  private:
    // The state of a head in a block, at a slice's first column: [key_dim][value_dim].
    float* state(const Context& context, int block, int head, int slice) const {
        return context.state(block, options_.state) + size_t(head) * key_dim_ * value_dim_ + slice * kStateColumns;
    }

    // For rows from the step's first on.
    RecurrenceTask task_of(Context& context, int head, int column) const {
        const RecurrenceOptions& o = options_;
        const int key_head = o.tiled_heads ? head % o.num_key_heads : head / (o.num_heads / o.num_key_heads);
        const Buffer &q = buffer_of(context, o.prepared_q), &k = buffer_of(context, o.prepared_k);
        const Buffer &v = buffer_of(context, o.prepared_v < 0 ? o.v : o.prepared_v), &out = buffer_of(context, o.out);
        RecurrenceTask task{};
        task.q = q.row(0) + key_head * key_dim_;
        task.k = k.row(0) + key_head * key_dim_;
        task.v = v.row(0) + head * value_dim_ + column;
        task.out = out.row(0) + head * value_dim_ + column;
        task.q_stride = q.stride, task.k_stride = k.stride, task.v_stride = v.stride, task.out_stride = out.stride;
        task.key_dim = key_dim_;
        task.num_columns = std::min(kStateColumns, value_dim_ - column);
        if (o.decay < 0) {
            task.decay = &fixed_decays_[size_t(head)];
            return task;
        }
        const Buffer &decays = buffer_of(context, o.decays), &strengths = buffer_of(context, o.strengths);
        task.decay_per_channel = decays.width != o.num_heads;
        task.decay = decays.row(0) + head * (task.decay_per_channel ? key_dim_ : 1);
        task.decay_stride = decays.stride;
        task.strength = strengths.row(0) + head;
        task.strength_stride = strengths.stride;
        return task;
    }

    RecurrenceOptions options_;
    int key_dim_, value_dim_, slices_ = 0;
    std::vector<float> fixed_decays_;  // of each head
};

void check_recurrence(Program& program, const RecurrenceOptions& o) {
    Context& context = program.context();
    const auto require = [&](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(o.name + ": " + what);
    };
    const auto width = [&](int buffer) { return buffer_of(context, buffer).width; };
    require(o.num_key_heads > 0 && o.num_heads > 0 && o.num_heads % o.num_key_heads == 0, "heads");
    require(width(o.q) % o.num_key_heads == 0 && width(o.v) % o.num_heads == 0, "width of the heads");
    const int key_dim = width(o.q) / o.num_key_heads, value_dim = width(o.v) / o.num_heads;
    check_width(program, o.k, width(o.q), o.name.c_str());
    check_width(program, o.prepared_q, width(o.q), o.name.c_str());
    check_width(program, o.prepared_k, width(o.q), o.name.c_str());
    check_width(program, o.out, width(o.v), o.name.c_str());
    require(o.state + size_t(o.num_heads) * key_dim * value_dim <= context.cache.state_floats, "state");
    if (o.decay < 0) {
        check_width(program, o.prepared_v, width(o.v), o.name.c_str());
        require(int(o.slopes.size()) == o.num_heads, "slopes");
        return;
    }
    require(width(o.decay) == o.num_heads || width(o.decay) == o.num_heads * key_dim, "width of the decay");
    require(int(o.rate.size()) == o.num_heads && int(o.decay_bias.size()) == width(o.decay), "rate or bias");
    check_width(program, o.decays, width(o.decay), o.name.c_str());
    check_width(program, o.beta, o.num_heads, o.name.c_str());
    check_width(program, o.strengths, o.num_heads, o.name.c_str());
}

}  // namespace

void add_short_convolutions(Program& program, int taps, std::vector<Convolution> parts) {
    if (taps < 2) throw std::invalid_argument("short convolution: taps");
    for (const Convolution& part : parts) {
        const int width = buffer_of(program.context(), part.input).width;
        check_width(program, part.out, width, "short convolution");
        if (part.input == part.out || part.weight.size() != size_t(taps) * width ||
            part.state + size_t(taps - 1) * width > program.context().cache.state_floats)
            throw std::invalid_argument("short convolution: buffers, weight or state");
    }
    program.add(std::make_unique<ShortConvolutions>(program, taps, std::move(parts)));
}

void add_recurrence(Program& program, RecurrenceOptions options) {
    check_recurrence(program, options);
    program.add(std::make_unique<PrepareRecurrence>(program, options));
    program.add(std::make_unique<Recurrence>(program, std::move(options)));
}

}  // namespace freehold
