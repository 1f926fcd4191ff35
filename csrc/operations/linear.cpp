#include "operations.h"

#include <algorithm>
#include <stdexcept>

#include "operations/common.h"
#include "operations/preparation.h"

namespace freehold {
namespace {

class Linear : public Operation {
  public:
    Linear(Context& context, LinearOptions options)
        : options_(std::move(options)),
          preparation_(options_.input, options_.norm, options_.eps, options_.projections[0].weight.cols,
                       any_quantized(options_.projections)) {
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
        if (heads_ && unit.projection == 1 && rows_ <= kFewRows)
            fetch_keys(context, row0, row1, options_.layer, unit.panel0 * kPanelRows / context.kv.head_dim);
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
    static constexpr int kFewRows = 32;  // up to here weights stream
    // Weights of an item for few rows: large enough to stream, and small enough that a thread has many.
    static constexpr size_t kMinItemBytes = 16 << 10, kMaxItemBytes = 64 << 10;
    static constexpr int kItemsOfThread = 32;

    struct Unit {
        int projection, panel0, panel1;
    };

    static bool any_quantized(const std::vector<Projection>& projections) {
        return std::any_of(projections.begin(), projections.end(),
                           [](const Projection& p) { return is_quantized(p.weight.format); });
    }

    int num_rows(Context& context) const { return context.rows_of(buffer_of(context, options_.input)); }

    int panels_per_item(const Context& context, const PackedWeight& weight, int matrices) const {
        if (rows_ > kFewRows) return 2;
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
            context.kernels->swiglu(gate.row(row) + begin, up.row(row) + begin, gate.row(row) + begin, end - begin,
                                    Glu());
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

void add_linear(Program& program, LinearOptions options) {
    check_linear(program, options);
    auto linear = std::make_unique<Linear>(program.context(), std::move(options));
    program.add(std::make_unique<Linear::Prepare>(*linear));
    program.add(std::move(linear));
}

}  // namespace freehold
