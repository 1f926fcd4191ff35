#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "operations/common.h"

namespace freehold {
namespace {

// An item is a run of one head's panels for a chunk of rows, whose part for this head the thread prepares for itself.
class HeadLinear : public Operation {
  public:
    HeadLinear(Context& context, HeadLinearOptions options) : options_(std::move(options)) {
        const PackedWeight& weight = options_.weights[0];
        padded_ = weight.num_panels() * kPanelRows;
        direct_ = padded_ <= options_.out_stride;
        context.reserve_head_rows(weight.cols);
        context.reserve_scratch(unpacked_bytes() + (direct_ ? 0 : kHeadRows * size_t(padded_) * sizeof(float)));
    }
    std::string name() const override { return options_.name; }

    int plan(Context& context) override {
        rows_ = context.rows_of(buffer_of(context, options_.input));
        const PackedWeight& weight = options_.weights[0];
        const int chunks = (rows_ + kHeadRows - 1) / kHeadRows, panels = weight.num_panels();
        const bool few = direct_ && rows_ <= 32;
        const int step = few ? std::max(1, int(kItemBytes / weight.panel_stride)) : panels;
        items_.clear();
        for (int head = 0; head < int(options_.weights.size()); head++)
            for (int panel = 0; panel < panels; panel += step)
                for (int chunk = 0; chunk < chunks; chunk++)
                    items_.push_back({head, panel, std::min(panel + step, panels), chunk * kHeadRows});
        return int(items_.size());
    }

    void run(Context& context, const Turn& turn) override {
        const Item& item = items_[size_t(turn.item)];
        const PackedWeight& weight = options_.weights[size_t(item.head)];
        const int count = std::min(kHeadRows, rows_ - item.row0);
        const PreparedRows x = prepare(context, item, count, turn.thread);
        uint8_t* scratch = context.scratch[size_t(turn.thread)].data();
        const Buffer& out = buffer_of(context, options_.out);
        float* to = out.row(item.row0) + size_t(item.head) * size_t(options_.out_stride);
        auto* aside = reinterpret_cast<float*>(scratch + unpacked_bytes());
        context.kernels->linear[int(weight.format)](
            {.panel = weight.panel(item.panel0),
             .panel_stride = weight.panel_stride,
             .num_panels = item.panel1 - item.panel0,
             .next_panel = turn.next < 0 ? nullptr : first_panel(items_[size_t(turn.next)]),
             .x = &x,
             .row0 = 0,
             .row1 = count,
             .out = direct_ ? to + item.panel0 * kPanelRows : aside,
             .out_stride = direct_ ? out.stride : size_t(padded_),
             .bias = nullptr,
             .residual = nullptr,
             .scratch = scratch});
        for (int row = 0; !direct_ && row < count; row++)
            std::memcpy(to + size_t(row) * out.stride, aside + size_t(row) * size_t(padded_),
                        size_t(weight.rows) * sizeof(float));
    }

  private:
    static constexpr size_t kItemBytes = 64 << 10;  // of weights, for few rows

    struct Item {
        int head, panel0, panel1, row0;
    };

    // Of the kernel's scratch.
    size_t unpacked_bytes() const {
        return linear_scratch_bytes((options_.weights[0].cols + kBlock - 1) / kBlock * kBlock);
    }

    const uint8_t* first_panel(const Item& item) const {
        return options_.weights[size_t(item.head)].panel(item.panel0);
    }

    PreparedRows prepare(Context& context, const Item& item, int count, int thread) const {
        const PackedWeight& weight = options_.weights[size_t(item.head)];
        const Buffer& input = buffer_of(context, options_.input);
        const size_t column = size_t(item.head) * size_t(options_.in_stride);
        PreparedRows x = context.head_rows[size_t(thread)].rows(weight.cols);
        x.values = input.row(item.row0) + column;
        x.value_stride = input.stride;
        for (int row = 0; is_quantized(weight.format) && row < count; row++)
            context.kernels->prepare_row(input.row(item.row0 + row) + column, nullptr, 0, nullptr, x, row, true);
        return x;
    }

    HeadLinearOptions options_;
    int padded_;   // outputs of a head, in whole panels
    bool direct_;  // these fit where a head's outputs go
    int rows_ = 0;
    std::vector<Item> items_;
};

}  // namespace

void add_head_linear(Program& program, HeadLinearOptions options) {
    const auto require = [&](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(options.name + ": " + what);
    };
    const int heads = int(options.weights.size());
    require(heads > 0, "no heads");
    const PackedWeight& first = options.weights[0];
    for (const PackedWeight& weight : options.weights)
        require(weight.format == first.format && weight.rows == first.rows && weight.cols == first.cols,
                "the heads' matrices differ");
    require(first.cols <= options.in_stride && first.rows <= options.out_stride, "strides of the heads");
    check_width(program, options.input, heads * options.in_stride, options.name.c_str());
    check_width(program, options.out, heads * options.out_stride, options.name.c_str());
    program.add(std::make_unique<HeadLinear>(program.context(), std::move(options)));
}

}  // namespace freehold
