#include "operations.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>

namespace freehold {
namespace {

constexpr int kRowsPerItem = 8;

const Buffer& buffer_of(Context& context, int index) { return *context.buffers.at(size_t(index)); }

void check_width(Program& program, int buffer, int width, const char* what) {
    if (buffer_of(program.context(), buffer).width != width)
        throw std::invalid_argument(std::string(what) + ": width " +
                                    std::to_string(buffer_of(program.context(), buffer).width) + ", expected " +
                                    std::to_string(width));
}

// An operation that treats each row by itself.
class RowOperation : public Operation {
  public:
    explicit RowOperation(int out) : out_(out) {}
    int plan(Context& context) override {
        rows_ = context.rows_of(buffer_of(context, out_));
        return (rows_ + kRowsPerItem - 1) / kRowsPerItem;
    }
    void run(Context& context, const Turn& turn) override {
        const int end = std::min(rows_, (turn.item + 1) * kRowsPerItem);
        for (int r = turn.item * kRowsPerItem; r < end; r++) row(context, r, buffer_of(context, out_).row(r));
    }
    virtual void row(Context&, int index, float* out) = 0;

  private:
    int out_, rows_ = 0;
};

class Embedding : public RowOperation {
  public:
    explicit Embedding(EmbeddingOptions options) : RowOperation(options.out), options_(std::move(options)) {
        const FormatInfo& info = format_info(options_.format);
        row_bytes_ = size_t(options_.width) / info.block_elements * info.block_bytes;
    }
    std::string name() const override { return "embedding"; }
    int plan(Context& context) override {
        for (int token : context.step.tokens)
            if (token < 0 || token >= options_.num_rows)
                throw std::invalid_argument("step: token " + std::to_string(token) + " is not in the vocabulary");
        blocks_.resize(context.step.tokens.size() * row_bytes_);
        for (size_t i = 0; i < context.step.tokens.size(); i++)
            options_.table.read(size_t(context.step.tokens[i]) * row_bytes_, row_bytes_, &blocks_[i * row_bytes_]);
        return RowOperation::plan(context);
    }
    void row(Context&, int index, float* out) override {
        dequantize(options_.format, &blocks_[size_t(index) * row_bytes_], out, size_t(options_.width));
    }

  private:
    EmbeddingOptions options_;
    size_t row_bytes_;
    std::vector<uint8_t> blocks_;  // of the step's tokens
};

class RopeAngles : public RowOperation {
  public:
    explicit RopeAngles(RopeAnglesOptions options) : RowOperation(options.out), options_(std::move(options)) {}
    std::string name() const override { return "rope angles"; }
    void row(Context& context, int index, float* out) override {
        const auto& frequencies = options_.inverse_frequencies;
        for (size_t i = 0; i < frequencies.size(); i++) {
            const float angle = float(context.step.positions[index]) * frequencies[i];
            out[i] = std::cos(angle) * options_.scale;
            out[frequencies.size() + i] = std::sin(angle) * options_.scale;
        }
    }

  private:
    RopeAnglesOptions options_;
};

void turn(Context& context, const RopeOptions& rope, int row, float* heads, int num_heads, int head_dim) {
    const float* angles = buffer_of(context, rope.angles).row(row);
    context.kernels->rope(
        {heads, num_heads, head_dim, rope.rotary_dim, rope.interleaved, angles, angles + rope.rotary_dim / 2});
}

// Calls f(row, head block of the row's KV block, slot) for rows row0..row1.
template <class Function>
void for_slots(Context& context, int row0, int row1, int layer, int head, Function f) {
    for (const StepRequest& request : context.step.requests) {
        const int begin = std::max(row0, request.first_row), end = std::min(row1, request.first_row + request.num_rows);
        for (int row = begin; row < end; row++) {
            const int position = context.step.positions[row];
            f(row, context.kv_head(request.blocks[position / kKvBlock], layer, head), position % kKvBlock);
        }
    }
}

void write_keys(Context& context, int row0, int row1, int layer, int head, const Buffer& k) {
    for_slots(context, row0, row1, layer, head, [&](int row, uint8_t* block, int slot) {
        context.kernels->write_key(context.kv, block, slot, k.row(row) + size_t(head) * context.kv.head_dim);
    });
}

void write_values(Context& context, int row0, int row1, int layer, int head, const Buffer& v) {
    for_slots(context, row0, row1, layer, head, [&](int row, uint8_t* block, int slot) {
        context.kernels->write_value(context.kv, block, slot, v.row(row) + size_t(head) * context.kv.head_dim);
    });
}

// What a Linear makes of its input rows before the products: normed values and int8 codes.
class Preparation {
  public:
    Preparation(const LinearOptions& options) : input_(options.input), norm_(options.norm), eps_(options.eps) {
        cols_ = options.projections[0].weight.cols;
        for (const Projection& p : options.projections) quantize_ |= is_quantized(p.weight.format);
    }
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
    bool quantize_ = false;
};

class Linear : public Operation {
  public:
    Linear(Context& context, LinearOptions options) : options_(std::move(options)), preparation_(options_) {
        context.reserve_columns(preparation_.cols());
        for (Projection& p : options_.projections)
            if (!p.bias.empty()) p.bias.resize(size_t(p.weight.num_panels()) * kPanelRows);
        heads_ = options_.epilogue == Epilogue::Cache;
    }
    std::string name() const override { return options_.name; }

    // The first of the two phases: rows are prepared for all threads. (See kPrivateRows.)
    class Prepare : public Operation {
      public:
        explicit Prepare(Linear& linear) : linear_(linear) {}
        std::string name() const override { return linear_.name() + " (prepare)"; }
        int plan(Context& context) override {
            rows_ = linear_.num_rows(context);
            return rows_ > kPrivateRows ? (rows_ + kRowsPerItem - 1) / kRowsPerItem : 0;
        }
        void run(Context& context, const Turn& turn) override {
            const PreparedRows rows = linear_.preparation_.rows(context, context.shared_rows);
            const int end = std::min(rows_, (turn.item + 1) * kRowsPerItem);
            for (int row = turn.item * kRowsPerItem; row < end; row++)
                linear_.preparation_.prepare(context, context.shared_rows, rows, row);
        }

      private:
        Linear& linear_;
        int rows_ = 0;
    };

    // An item is a run of panels (of one projection; of gate and up; of a head) for a chunk of rows.
    int plan(Context& context) override {
        rows_ = num_rows(context);
        row_chunks_ = (rows_ + kChunkRows - 1) / kChunkRows;
        units_.clear();
        const bool swiglu = options_.epilogue == Epilogue::Swiglu;
        for (int p = 0; p < (swiglu ? 1 : int(options_.projections.size())); p++) {
            const PackedWeight& weight = options_.projections[p].weight;
            const int step =
                heads_ ? context.kv.head_dim / kPanelRows : panels_per_item(context, weight, swiglu ? 2 : 1);
            for (int panel = 0; panel < weight.num_panels(); panel += step)
                units_.push_back({p, panel, std::min(panel + step, weight.num_panels())});
        }
        return int(units_.size()) * row_chunks_;
    }

    void enter(Context& context, int thread) override {
        if (rows_ > kPrivateRows) return;
        const PreparedRows rows = preparation_.rows(context, context.private_rows[thread]);
        for (int row = 0; row < rows_; row++) preparation_.prepare(context, context.private_rows[thread], rows, row);
    }

    void run(Context& context, const Turn& turn) override {
        const Unit& unit = unit_of(turn.item);
        const int row0 = turn.item % row_chunks_ * kChunkRows, row1 = std::min(rows_, row0 + kChunkRows);
        const PreparedRows x =
            preparation_.rows(context, rows_ > kPrivateRows ? context.shared_rows : context.private_rows[turn.thread]);
        const uint8_t* after = turn.next < 0 ? nullptr : first_panel(unit_of(turn.next), 0);
        if (options_.epilogue == Epilogue::Swiglu) {
            multiply(context, 0, unit, x, row0, row1, turn.thread, first_panel(unit, 1));
            multiply(context, 1, unit, x, row0, row1, turn.thread, after);
        } else {
            multiply(context, unit.projection, unit, x, row0, row1, turn.thread, after);
        }
        if (options_.epilogue == Epilogue::Swiglu) gate(context, unit, row0, row1);
        if (options_.epilogue == Epilogue::Cache) cache(context, unit, row0, row1);
    }

  private:
    static constexpr int kChunkRows = 128;
    // Weights of an item for few rows: large enough to stream, and small enough that a thread has many.
    static constexpr size_t kMinItemBytes = 16 << 10, kMaxItemBytes = 64 << 10;
    static constexpr int kItemsOfThread = 32;

    struct Unit {
        int projection, panel0, panel1;
    };

    int num_rows(Context& context) const { return context.rows_of(buffer_of(context, options_.input)); }

    int panels_per_item(const Context& context, const PackedWeight& weight, int matrices) const {
        if (rows_ > 32) return 2;
        const size_t bytes = weight.panel_stride * matrices, share = bytes * weight.num_panels() / context.num_threads;
        return int(std::max<size_t>(1, std::clamp(share / kItemsOfThread, kMinItemBytes, kMaxItemBytes) / bytes));
    }

    const Unit& unit_of(int item) const { return units_[size_t(item / row_chunks_)]; }

    const uint8_t* first_panel(const Unit& unit, int offset) const {
        return options_.projections[unit.projection + offset].weight.panel(unit.panel0);
    }

    // `after`: the panel that this thread multiplies after those of the unit, or null.
    void multiply(Context& context, int projection, const Unit& unit, const PreparedRows& x, int row0, int row1,
                  int thread, const uint8_t* after) {
        const Projection& p = options_.projections[projection];
        const Buffer& out = buffer_of(context, p.out);
        const Buffer* residual = options_.residual < 0 ? nullptr : &buffer_of(context, options_.residual);
        const size_t column = size_t(unit.panel0) * kPanelRows;
        context.kernels->linear[int(p.weight.format)](
            {p.weight.panel(unit.panel0), p.weight.panel_stride, unit.panel1 - unit.panel0, after, &x, row0, row1,
             out.row(0) + column, out.stride, p.bias.empty() ? nullptr : p.bias.data() + column,
             residual ? residual->row(0) + column : nullptr, context.scratch[thread].data()});
    }

    void gate(Context& context, const Unit& unit, int row0, int row1) {
        const Buffer &gate = buffer_of(context, options_.projections[0].out),
                     &up = buffer_of(context, options_.projections[1].out);
        const int begin = unit.panel0 * kPanelRows, end = std::min(unit.panel1 * kPanelRows, gate.width);
        for (int row = row0; row < row1; row++)
            context.kernels->swiglu(gate.row(row) + begin, up.row(row) + begin, gate.row(row) + begin, end - begin);
    }

    void cache(Context& context, const Unit& unit, int row0, int row1) {
        const int dim = context.kv.head_dim, head = unit.panel0 * kPanelRows / dim;
        const Buffer& out = buffer_of(context, options_.projections[unit.projection].out);
        if (unit.projection < 2 && options_.rope.angles >= 0)
            for (int row = row0; row < row1; row++)
                turn(context, options_.rope, row, out.row(row) + size_t(head) * dim, 1, dim);
        if (unit.projection == 1) write_keys(context, row0, row1, options_.layer, head, out);
        if (unit.projection == 2) write_values(context, row0, row1, options_.layer, head, out);
    }

    LinearOptions options_;
    Preparation preparation_;
    bool heads_;
    int rows_ = 0, row_chunks_ = 0;
    std::vector<Unit> units_;
};

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
        size_t state_floats = 0;
        for (const StepRequest& request : context.step.requests) {
            const int spans = (request.position + request.num_rows + kSpan - 1) / kSpan;
            const bool split = request.num_rows <= kSplitRows && spans > 1;
            const int tile = split ? request.num_rows : kTileRows;
            for (int row = 0; row < request.num_rows; row += tile)
                for (int head = 0; head < context.kv.heads; head++) {
                    Item item{&request, row, std::min(tile, request.num_rows - row), head, 0, spans, -1};
                    if (!split) {
                        items_.push_back(item);
                        continue;
                    }
                    item.split = int(splits_.size());
                    splits_.push_back({state_floats, spans});
                    state_floats +=
                        size_t(spans) * item.num_rows * group_ * attention_state_floats(context.kv.padded_dim());
                    for (item.span0 = 0; item.span0 < spans; item.span0++) {
                        item.span1 = item.span0 + 1;
                        items_.push_back(item);
                    }
                }
        }
        if (context.states.size() < state_floats) context.states.resize(state_floats);
        if (done_.size() < splits_.size()) done_ = std::vector<std::atomic<int>>(splits_.size());
        for (auto& done : done_) done.store(0, std::memory_order_relaxed);
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const Item& item = items_[size_t(turn.item)];
        AttentionTask task = task_of(context, item, turn.thread);
        if (item.split < 0) return context.kernels->attend(task);
        const Split& split = splits_[size_t(item.split)];
        float* states = context.states.data() + split.offset;
        task.states =
            states + size_t(item.span0) * item.num_rows * group_ * attention_state_floats(context.kv.padded_dim());
        context.kernels->attend(task);
        if (done_[size_t(item.split)].fetch_add(1, std::memory_order_acq_rel) + 1 == split.spans)
            context.kernels->combine_states(task, states, split.spans);
    }

  private:
    static constexpr int kSplitRows = 4;
    static constexpr int kTileRows =
        8;  // so that the queries of any group are a multiple of 8, as the kernels take them

    struct Item {
        const StepRequest* request;
        int row, num_rows, head, span0, span1;
        int split;  // index, or -1
    };
    struct Split {
        size_t offset;
        int spans;
    };

    AttentionTask task_of(Context& context, const Item& item, int thread) const {
        const Buffer &q = buffer_of(context, options_.q), &out = buffer_of(context, options_.out);
        const int row = item.request->first_row + item.row;
        const size_t column = size_t(item.head) * group_ * context.kv.head_dim;
        return {.layout = &context.kv,
                .kv = context.kv_head(0, options_.layer, item.head),
                .block_table = item.request->blocks.data(),
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
                .sinks = options_.sinks.empty() ? nullptr : options_.sinks.data() + size_t(item.head) * group_,
                .states = nullptr,
                .scratch = reinterpret_cast<float*>(context.scratch[size_t(thread)].data())};
    }

    AttentionOptions options_;
    int group_;
    std::vector<Item> items_;
    std::vector<Split> splits_;
    std::vector<std::atomic<int>> done_;
};

// A row operation from a function (context, row, out).
template <class Function>
class Rowwise : public RowOperation {
  public:
    Rowwise(const char* name, int out, Function function)
        : RowOperation(out), name_(name), function_(std::move(function)) {}
    std::string name() const override { return name_; }
    void row(Context& context, int index, float* out) override { function_(context, index, out); }

  private:
    const char* name_;
    Function function_;
};

template <class Function>
void add_rowwise(Program& program, const char* name, int out, Function function) {
    program.add(std::make_unique<Rowwise<Function>>(name, out, std::move(function)));
}

void check_linear(Program& program, const LinearOptions& options) {
    const auto require = [&](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(options.name + ": " + what);
    };
    const KvLayout& kv = program.context().kv;
    const size_t n = options.projections.size();
    require(n > 0, "no projections");
    for (const Projection& p : options.projections) {
        check_width(program, options.input, p.weight.cols, options.name.c_str());
        check_width(program, p.out, p.weight.rows, options.name.c_str());
        require(p.bias.empty() || int(p.bias.size()) == p.weight.rows, "bias length");
    }
    require(options.norm.empty() || int(options.norm.size()) == options.projections[0].weight.cols, "norm length");
    if (options.epilogue == Epilogue::Swiglu)
        require(n == 2 && options.projections[0].weight.rows == options.projections[1].weight.rows,
                "gate and up differ");
    if (options.epilogue == Epilogue::Cache) {
        require(n == 3 && kv.head_dim % kPanelRows == 0, "heads are not whole panels");
        for (size_t p = 1; p < 3; p++)
            require(options.projections[p].weight.rows == kv.heads * kv.head_dim, "key or value width");
    }
    require(options.residual < 0 || (n == 1 && options.epilogue == Epilogue::None), "residual");
    if (options.residual >= 0)
        check_width(program, options.residual, options.projections[0].weight.rows, options.name.c_str());
}

}  // namespace

void add_embedding(Program& program, EmbeddingOptions options) {
    check_width(program, options.out, options.width, "embedding");
    program.add(std::make_unique<Embedding>(std::move(options)));
}

void add_rope_angles(Program& program, RopeAnglesOptions options) {
    check_width(program, options.out, int(2 * options.inverse_frequencies.size()), "rope angles");
    program.add(std::make_unique<RopeAngles>(std::move(options)));
}

void add_linear(Program& program, LinearOptions options) {
    check_linear(program, options);
    auto linear = std::make_unique<Linear>(program.context(), std::move(options));
    program.add(std::make_unique<Linear::Prepare>(*linear));
    program.add(std::move(linear));
}

void add_attention(Program& program, AttentionOptions options) {
    check_width(program, options.q, options.num_heads * program.context().kv.head_dim, "attention");
    check_width(program, options.out, options.num_heads * program.context().kv.head_dim, "attention");
    if (options.window < 0 || (!options.sinks.empty() && int(options.sinks.size()) != options.num_heads))
        throw std::invalid_argument("attention: window or sinks");
    program.add(std::make_unique<Attention>(program.context(), std::move(options)));
}

void add_select_rows(Program& program, int input, int out) {
    add_rowwise(program, "select rows", out, [=](Context& context, int row, float* to) {
        const Buffer& from = buffer_of(context, input);
        std::memcpy(to, from.row(context.step.logit_rows[size_t(row)]), from.width * sizeof(float));
    });
}

void add_rms_norm(Program& program, int input, std::vector<float> weight, float eps, int out) {
    const Buffer& in = buffer_of(program.context(), input);
    if (weight.empty() || in.width % int(weight.size())) throw std::invalid_argument("rms norm: width of the weight");
    check_width(program, out, in.width, "rms norm");
    add_rowwise(program, "rms norm", out, [=, weight = std::move(weight)](Context& context, int row, float* to) {
        const Buffer& from = buffer_of(context, input);
        PreparedRows rows;
        rows.cols = int(weight.size());
        for (int part = 0; part < from.width; part += rows.cols)
            context.kernels->prepare_row(from.row(row) + part, weight.data(), eps, to + part, rows, row, false);
    });
}

void add_rope(Program& program, int input, int num_heads, int head_dim, RopeOptions rope, int out) {
    check_width(program, input, num_heads * head_dim, "rope");
    add_rowwise(program, "rope", out, [=](Context& context, int row, float* to) {
        if (input != out)
            std::memcpy(to, buffer_of(context, input).row(row), size_t(num_heads) * head_dim * sizeof(float));
        turn(context, rope, row, to, num_heads, head_dim);
    });
}

void add_cache_write(Program& program, int k, int v, int layer) {
    check_width(program, k, program.context().kv.heads * program.context().kv.head_dim, "cache write");
    add_rowwise(program, "cache write", k, [=](Context& context, int row, float*) {
        for (int head = 0; head < context.kv.heads; head++) {
            write_keys(context, row, row + 1, layer, head, buffer_of(context, k));
            write_values(context, row, row + 1, layer, head, buffer_of(context, v));
        }
    });
}

void add_swiglu(Program& program, int gate, int up, int out) {
    add_rowwise(program, "swiglu", out, [=](Context& context, int row, float* to) {
        context.kernels->swiglu(buffer_of(context, gate).row(row), buffer_of(context, up).row(row), to,
                                buffer_of(context, out).width);
    });
}

void add_add(Program& program, int a, int b, int out) {
    add_rowwise(program, "add", out, [=](Context& context, int row, float* to) {
        context.kernels->add(buffer_of(context, a).row(row), buffer_of(context, b).row(row), to,
                             buffer_of(context, out).width);
    });
}

}  // namespace freehold
