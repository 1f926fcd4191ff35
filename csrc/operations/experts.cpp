// Routed experts, in four phases:
//
//   route   by rows: each row's experts and their weights; who finishes the last row groups the rows by expert
//   gather  by rows of the groups: the prepared input rows of one expert lie side by side (not for one row alone)
//   inner   by (expert, panels): gate and up, the gated unit, and its int8 codes for the next product
//   down    by panels of the output: expert after expert, added up in their order, so that no output is shared
//
// A panel is unpacked once for all rows of its expert. How many experts a step will choose is known when it is routed
// only, so that items are planned for the most there can be; those of absent experts are empty.
#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <stdexcept>

#include "operations.h"
#include "operations/common.h"
#include "operations/preparation.h"
#include "operations/router.h"

namespace freehold {
namespace {

constexpr int kTileRows = 128;  // rows of an expert that are multiplied at a time
constexpr int kMaxPanels = 4;   // of an item
constexpr int kManyRows = 32;   // from here on items are as large as unpacking asks for
constexpr size_t kItemBytes = 48 << 10;

// The rows that go through one expert.
struct Group {
    int expert, first, count;
    uint8_t* slot;  // where its panels are packed, or null: they are packed for each item
    bool packed;
};

struct RoutedRow {
    int row;  // of the step
    float weight;
};

enum Matrix { Gate, Up, Down };

// What the phases share.
class Experts {
  public:
    Experts(Context& context, ExpertsOptions options)
        : options_(std::move(options)),
          matrices_{&options_.gate, &options_.up, &options_.down},
          num_experts_(int(options_.gate.packed.size())),
          router_(options_.router, num_experts_),
          preparation_(options_.input, options_.norm, options_.eps, weight(Gate).cols,
                       is_quantized(weight(Gate).format) || is_quantized(weight(Up).format)) {
        for (int m = 0; m < 3; m++) {
            pad_bias(*matrices_[m], weight(Matrix(m)));
            slot_offsets_[m + 1] = slot_offsets_[m] + weight(Matrix(m)).panel_stride * size_t(num_panels(Matrix(m)));
        }
        if (options_.cache) first_expert_ = options_.cache->add_experts(num_experts_);
        reserve(context);
    }

    // Phases.

    void plan(Context& context) {
        rows_ = context.rows_of(buffer_of(context, options_.input));
        const size_t routed = size_t(rows_) * size_t(router_.top_k());
        chosen_.resize(routed);
        weights_.resize(routed);
        routed_.resize(routed);
        groups_.reserve(size_t(num_experts_));
        unrouted_.store(rows_, std::memory_order_relaxed);
        // A step's few rows: items that stream well; many: two panels to a tile of gate and up, and enough of the
        // output to go through an expert's rows not too often.
        const int few_inner = fitting(weight(Gate).panel_stride + weight(Up).panel_stride);
        inner_step_ = rows_ > kManyRows ? 2 : few_inner < kMaxPanels ? 2 : kMaxPanels;
        const int most = std::min(num_experts_, int(routed));
        down_step_ = rows_ > kManyRows ? kMaxPanels : fitting(weight(Down).panel_stride * size_t(most));
    }
    int num_rows() const { return rows_; }
    bool gathers() const { return rows_ > 1 || options_.router.scales_inputs; }
    int max_groups() const { return std::min(num_experts_, rows_ * router_.top_k()); }
    int num_routed() const { return int(routed_.size()); }
    int inner_units() const { return (num_panels(Gate) + inner_step_ - 1) / inner_step_; }
    int down_units() const { return (num_panels(Down) + down_step_ - 1) / down_step_; }

    void route(Context& context, int row0, int row1, int thread) {
        const int k = router_.top_k();
        const PreparedRows rows = preparation_.rows(context, context.shared_rows);
        for (int row = row0; row < row1; row++) {
            router_.choose(*context.kernels, buffer_of(context, options_.logits).row(row), floats(context, thread),
                           &chosen_[size_t(row * k)], &weights_[size_t(row * k)]);
            preparation_.prepare(context, context.shared_rows, rows, row);
        }
        if (unrouted_.fetch_sub(row1 - row0, std::memory_order_acq_rel) == row1 - row0) group();
    }

    void gather(Context& context, int begin, int end, int thread) {
        const PreparedRows from = preparation_.rows(context, context.shared_rows);
        const PreparedRows to = context.expert_inputs.rows_with_values(from.cols);
        for (int i = begin; i < end; i++) {
            const RoutedRow& routed = routed_[size_t(i)];
            const float* values = from.values + size_t(routed.row) * from.value_stride;
            float* kept = context.expert_inputs.values + size_t(i) * to.value_stride;
            if (options_.router.scales_inputs) {
                float* scaled = to.values ? kept : floats(context, thread);
                for (int c = 0; c < from.cols; c++) scaled[c] = values[c] * routed.weight;
                context.kernels->prepare_row(scaled, nullptr, 0, nullptr, to, i, to.codes != nullptr);
                continue;
            }
            if (to.values) std::memcpy(kept, values, size_t(from.cols) * sizeof(float));
            if (to.codes) copy_codes(from, routed.row, to, i);
        }
    }

    void inner(Context& context, int group_index, int unit, int thread, int next_group, int next_unit) {
        if (group_index >= int(groups_.size())) return;
        const Group& group = groups_[size_t(group_index)];
        const int panel0 = unit * inner_step_, panel1 = std::min(panel0 + inner_step_, num_panels(Gate));
        const int columns = (panel1 - panel0) * kPanelRows;
        const uint8_t* gates = panels(context, group, Gate, panel0, panel1, thread);
        const uint8_t* ups = panels(context, group, Up, panel0, panel1, thread);
        float *gate = floats(context, thread), *up = gate + kTileRows * columns;
        for (int first = 0; first < group.count; first += kTileRows) {
            const int count = std::min(kTileRows, group.count - first);
            const PreparedRows x = inputs(context, group, first);
            const uint8_t* after = first + count < group.count ? gates : fetchable(next_group, Gate, next_unit);
            multiply(context, group, Gate, panel0, panel1, gates, x, count, gate, columns, ups, thread);
            multiply(context, group, Up, panel0, panel1, ups, x, count, up, columns, after, thread);
            for (int r = 0; r < count; r++)
                activate(context, group.first + first + r, panel0 * kPanelRows, columns, gate + r * columns,
                         up + r * columns);
        }
    }

    void down(Context& context, int unit, int thread, int next_unit) {
        const int panel0 = unit * down_step_, panel1 = std::min(panel0 + down_step_, num_panels(Down));
        const int columns = (panel1 - panel0) * kPanelRows;
        float *sums = floats(context, thread), *outputs = sums + size_t(context.limits.max_rows) * columns;
        std::memset(sums, 0, size_t(rows_) * columns * sizeof(float));
        for (size_t g = 0; g < groups_.size(); g++) {
            const Group& group = groups_[g];
            const uint8_t* packed = panels(context, group, Down, panel0, panel1, thread);
            const uint8_t* after =
                g + 1 < groups_.size() ? fetchable(int(g) + 1, Down, unit) : fetchable(0, Down, next_unit);
            for (int first = 0; first < group.count; first += kTileRows) {
                const int count = std::min(kTileRows, group.count - first);
                const PreparedRows x =
                    rows_from(context.expert_inner.rows_with_values(weight(Down).cols), group.first + first);
                multiply(context, group, Down, panel0, panel1, packed, x, count, outputs, columns,
                         first + count < group.count ? packed : after, thread);
                for (int r = 0; r < count; r++) {
                    const RoutedRow& routed = routed_[size_t(group.first + first + r)];
                    const float share = options_.router.scales_inputs ? 1.0f : routed.weight;
                    context.kernels->accumulate(share, outputs + r * columns, sums + size_t(routed.row) * columns,
                                                columns);
                }
            }
        }
        finish(context, panel0 * kPanelRows, columns, sums);
    }

  private:
    const PackedWeight& weight(Matrix m) const { return matrices_[m]->packed[0]; }  // all experts' are of one shape
    int num_panels(Matrix m) const { return weight(m).num_panels(); }

    // Panels of so many bytes that make an item of a step with few rows.
    static int fitting(size_t bytes) { return int(std::clamp<size_t>(kItemBytes / bytes, 1, kMaxPanels)); }

    static void pad_bias(ExpertMatrix& matrix, const PackedWeight& shape) {
        if (matrix.bias.empty()) return;
        const size_t padded = size_t(shape.num_panels()) * kPanelRows, experts = matrix.packed.size();
        std::vector<float> bias(experts * padded);
        for (size_t e = 0; e < experts; e++)
            std::copy_n(&matrix.bias[e * size_t(shape.rows)], shape.rows, &bias[e * padded]);
        matrix.bias = std::move(bias);
    }

    void reserve(Context& context) {
        const PackedWeight &gate = weight(Gate), &up = weight(Up), &down = weight(Down);
        context.reserve_columns(std::max(gate.cols, down.cols));
        const auto plain = [](const PackedWeight& w) { return !is_quantized(w.format); };
        const size_t columns = kMaxPanels * kPanelRows;
        const size_t inner = 2 * kTileRows * columns, sums = (size_t(context.limits.max_rows) + kTileRows) * columns;
        float_bytes_ = std::max({inner, sums, router_.scratch_floats(), size_t(gate.cols)}) * sizeof(float);
        size_t packing = 0;
        if (options_.cache)
            for (int m = 0; m < 3; m++) {
                packed_bytes_ = std::max(packed_bytes_, kMaxPanels * weight(Matrix(m)).panel_stride);
                packing = std::max(packing, kMaxPanels * kPanelRows * row_bytes(weight(Matrix(m))));
            }
        context.reserve_experts({router_.top_k(), gate.cols, down.cols, plain(gate) || plain(up),
                                 !plain(gate) || !plain(up), plain(down), !plain(down)},
                                float_bytes_ + 2 * packed_bytes_ + packing);
    }

    // Memory of a thread: floats, panels packed for one item, blocks as they are in the file.
    static float* floats(Context& context, int thread) {
        return reinterpret_cast<float*>(context.expert_scratch[size_t(thread)].data());
    }

    void group() {
        const int k = router_.top_k();
        std::vector<int>& starts = starts_;
        starts.assign(size_t(num_experts_) + 1, 0);
        for (int expert : chosen_) starts[size_t(expert) + 1]++;
        groups_.clear();
        for (int e = 0; e < num_experts_; e++) {
            const int count = starts[size_t(e) + 1];
            starts[size_t(e) + 1] += starts[size_t(e)];
            if (count) groups_.push_back({e, starts[size_t(e)], count, nullptr, true});
        }
        for (size_t i = 0; i < chosen_.size(); i++)
            routed_[size_t(starts[size_t(chosen_[i])]++)] = {int(i) / k, weights_[i]};
        if (options_.cache) place();
    }

    // Slots for the groups' experts: first those that are there, so that none of them is given away.
    void place() {
        ExpertCache& cache = *options_.cache;
        cache.begin_turn();
        for (Group& group : groups_) {
            group.slot = cache.find(first_expert_ + group.expert);
            group.packed = group.slot;
        }
        for (Group& group : groups_) {
            if (group.packed) continue;
            group.slot = cache.claim(first_expert_ + group.expert);
            for (const ExpertMatrix* matrix : matrices_)
                matrix->sources[size_t(group.expert)].announce(size_t(matrix->packed[0].rows) *
                                                               row_bytes(matrix->packed[0]));
        }
    }

    static size_t row_bytes(const PackedWeight& weight) {
        const FormatInfo& info = format_info(weight.format);
        return size_t(weight.cols / info.block_elements) * size_t(info.block_bytes);
    }

    // The group's panels, packed now if they are not yet.
    const uint8_t* panels(Context& context, const Group& group, Matrix m, int panel0, int panel1, int thread) const {
        const PackedWeight& shape = weight(m);
        if (!options_.cache) return matrices_[m]->packed[size_t(group.expert)].panel(panel0);
        uint8_t* scratch = context.expert_scratch[size_t(thread)].data() + float_bytes_;
        uint8_t* out = group.slot ? group.slot + slot_offsets_[m] + size_t(panel0) * shape.panel_stride
                                  : scratch + (m == Up ? packed_bytes_ : 0);
        if (group.packed) return out;
        uint8_t* blocks = scratch + 2 * packed_bytes_;
        const size_t bytes = row_bytes(shape);
        const int row0 = panel0 * kPanelRows, row1 = std::min(panel1 * kPanelRows, shape.rows);
        try {
            matrices_[m]->sources[size_t(group.expert)].read(size_t(row0) * bytes, size_t(row1 - row0) * bytes, blocks);
        } catch (...) {
            if (group.slot) options_.cache->spoil(first_expert_ + group.expert);
            throw;
        }
        const PackedWeight piece{shape.format, row1 - row0, shape.cols, shape.panel_stride, out, nullptr};
        for (int panel = 0; panel < panel1 - panel0; panel++) pack_panel(piece, blocks, panel);
        return out;
    }

    // The first panel of a unit that a thread will multiply later, if it is known and in memory.
    const uint8_t* fetchable(int group_index, Matrix m, int unit) const {
        if (unit < 0 || group_index >= int(groups_.size())) return nullptr;
        const Group& group = groups_[size_t(group_index)];
        const size_t panel = size_t(unit) * size_t(m == Down ? down_step_ : inner_step_);
        if (!options_.cache) return matrices_[m]->packed[size_t(group.expert)].panel(int(panel));
        return group.packed ? group.slot + slot_offsets_[m] + panel * weight(m).panel_stride : nullptr;
    }

    // The same rows, counted from `first` on.
    static PreparedRows rows_from(PreparedRows rows, int first) {
        const size_t blocks = size_t(rows.cols / kBlock) * size_t(first);
        if (rows.values) rows.values += size_t(first) * rows.value_stride;
        if (!rows.codes) return rows;
        rows.codes += size_t(first) * size_t(rows.cols);
        rows.scales += blocks, rows.scaled_sums += blocks;
        rows.negative_sums32 += blocks, rows.negative_sums16 += 2 * blocks;
        return rows;
    }

    static void copy_codes(const PreparedRows& from, int row, const PreparedRows& to, int at) {
        const PreparedRows x = rows_from(from, row), y = rows_from(to, at);
        const size_t blocks = size_t(from.cols / kBlock);
        std::memcpy(y.codes, x.codes, size_t(from.cols));
        std::memcpy(y.scales, x.scales, blocks * sizeof(float));
        std::memcpy(y.scaled_sums, x.scaled_sums, blocks * sizeof(float));
        std::memcpy(y.negative_sums32, x.negative_sums32, blocks * sizeof(int32_t));
        std::memcpy(y.negative_sums16, x.negative_sums16, 2 * blocks * sizeof(int32_t));
    }

    // The input rows of a group, from its row `first` on.
    PreparedRows inputs(Context& context, const Group& group, int first) const {
        if (!gathers()) return preparation_.rows(context, context.shared_rows);
        return rows_from(context.expert_inputs.rows_with_values(preparation_.cols()), group.first + first);
    }

    void multiply(Context& context, const Group& group, Matrix m, int panel0, int panel1, const uint8_t* packed,
                  const PreparedRows& x, int count, float* out, int stride, const uint8_t* after, int thread) const {
        const PackedWeight& shape = weight(m);
        const std::vector<float>& bias = matrices_[m]->bias;
        const size_t column = size_t(group.expert) * size_t(shape.num_panels()) * kPanelRows + panel0 * kPanelRows;
        context.kernels->linear[int(shape.format)]({packed, shape.panel_stride, panel1 - panel0, after, &x, 0, count,
                                                    out, size_t(stride), bias.empty() ? nullptr : &bias[column],
                                                    nullptr, context.scratch[size_t(thread)].data()});
    }

    // The gated unit of some columns of a routed row, as the next product reads it.
    void activate(Context& context, int routed, int column, int columns, float* gate, const float* up) const {
        const PackedWeight& next = weight(Down);
        const PreparedRows to = context.expert_inner.rows_with_values(next.cols);
        context.kernels->swiglu(gate, up, gate, columns, options_.glu);
        const int count = std::min(columns, next.cols - column);
        if (is_quantized(next.format))
            context.kernels->quantize_blocks(gate, to, routed, column / kBlock, count / kBlock);
        else
            std::memcpy(context.expert_inner.values + size_t(routed) * to.value_stride + column, gate,
                        size_t(count) * sizeof(float));
    }

    void finish(Context& context, int column, int columns, const float* sums) const {
        const Buffer& out = buffer_of(context, options_.out);
        const int count = std::min(columns, out.width - column);
        for (int row = 0; row < rows_; row++, sums += columns) {
            float* to = out.row(row) + column;
            if (options_.residual < 0)
                std::memcpy(to, sums, size_t(count) * sizeof(float));
            else
                context.kernels->add(buffer_of(context, options_.residual).row(row) + column, sums, to, count, 1, 1);
        }
    }

    ExpertsOptions options_;
    std::array<ExpertMatrix*, 3> matrices_;
    int num_experts_, first_expert_ = 0;
    Router router_;
    Preparation preparation_;
    size_t slot_offsets_[4] = {}, float_bytes_ = 0, packed_bytes_ = 0;

    // Of the step.
    int rows_ = 0, inner_step_ = 2, down_step_ = 1;
    std::vector<int> chosen_;        // [rows][top_k]
    std::vector<float> weights_;     // [rows][top_k]
    std::vector<RoutedRow> routed_;  // grouped by expert
    std::vector<int> starts_;
    std::vector<Group> groups_;
    std::atomic<int> unrouted_{0};
};

class Phase : public Operation {
  public:
    Phase(std::shared_ptr<Experts> experts, const char* name) : experts_(std::move(experts)), name_(name) {}
    std::string name() const override { return name_; }

  protected:
    std::shared_ptr<Experts> experts_;

  private:
    const char* name_;
};

struct Route : Phase {
    using Phase::Phase;
    int plan(Context& context) override {
        experts_->plan(context);
        return (experts_->num_rows() + kRowsPerItem - 1) / kRowsPerItem;
    }
    void run(Context& context, const Turn& turn) override {
        const int row = turn.item * kRowsPerItem;
        experts_->route(context, row, std::min(row + kRowsPerItem, experts_->num_rows()), turn.thread);
    }
};

struct Gather : Phase {
    using Phase::Phase;
    int plan(Context&) override {
        return experts_->gathers() ? (experts_->num_routed() + kRowsPerItem - 1) / kRowsPerItem : 0;
    }
    void run(Context& context, const Turn& turn) override {
        const int begin = turn.item * kRowsPerItem;
        experts_->gather(context, begin, std::min(begin + kRowsPerItem, experts_->num_routed()), turn.thread);
    }
};

struct Inner : Phase {
    using Phase::Phase;
    int plan(Context&) override { return experts_->max_groups() * experts_->inner_units(); }
    void run(Context& context, const Turn& turn) override {
        const int units = experts_->inner_units();
        experts_->inner(context, turn.item / units, turn.item % units, turn.thread, turn.next / units,
                        turn.next < 0 ? -1 : turn.next % units);
    }
};

struct DownProjection : Phase {
    using Phase::Phase;
    int plan(Context&) override { return experts_->down_units(); }
    void run(Context& context, const Turn& turn) override {
        experts_->down(context, turn.item, turn.thread, turn.next);
    }
};

void check_experts(Program& program, const ExpertsOptions& options) {
    const auto require = [](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(std::string("experts: ") + what);
    };
    const size_t experts = options.gate.packed.size();
    require(experts > 0, "there are none");
    const PackedWeight &gate = options.gate.packed[0], &down = options.down.packed.at(0);
    require(down.cols == gate.rows, "down has not the columns that gate has rows");
    for (const ExpertMatrix* matrix : {&options.gate, &options.up, &options.down}) {
        require(matrix->packed.size() == experts, "gate, up and down differ in number");
        const PackedWeight &first = matrix->packed[0], &shape = matrix == &options.down ? down : gate;
        for (const PackedWeight& each : matrix->packed)
            require(each.format == first.format && each.rows == shape.rows && each.cols == shape.cols,
                    "of different shapes or formats");
        require(matrix->bias.empty() || matrix->bias.size() == experts * size_t(first.rows), "length of a bias");
        require(options.cache ? matrix->sources.size() == experts : first.data != nullptr, "without weights");
    }
    check_width(program, options.input, gate.cols, "experts");
    check_width(program, options.out, down.rows, "experts");
    check_width(program, options.logits, int(experts), "experts");
    require(options.norm.empty() || int(options.norm.size()) == gate.cols, "length of the norm");
    if (options.residual >= 0) check_width(program, options.residual, down.rows, "experts");
}

}  // namespace

void add_experts(Program& program, ExpertsOptions options) {
    check_experts(program, options);
    auto experts = std::make_shared<Experts>(program.context(), std::move(options));
    program.add(std::make_unique<Route>(experts, "experts: route"));
    program.add(std::make_unique<Gather>(experts, "experts: gather"));
    program.add(std::make_unique<Inner>(experts, "experts: gate, up"));
    program.add(std::make_unique<DownProjection>(experts, "experts: down"));
}

}  // namespace freehold
