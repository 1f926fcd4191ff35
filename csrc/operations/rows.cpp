#include "operations.h"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "operations/common.h"

namespace freehold {
namespace {

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

void multiply(const float* x, float factor, float* out, int count) {
    for (int i = 0; i < count; i++) out[i] = x[i] * factor;
}

void check_norm(Program& program, int input, const std::vector<float>& weight, int out) {
    const int width = buffer_of(program.context(), input).width;
    if (weight.empty() || width % int(weight.size())) throw std::invalid_argument("rms norm: width of the weight");
    check_width(program, out, width, "rms norm");
}

void norm_parts(Context& context, const Buffer& from, int row, const std::vector<float>& weight, float eps, float* to) {
    PreparedRows rows;
    rows.cols = int(weight.size());
    for (int part = 0; part < from.width; part += rows.cols)
        context.kernels->prepare_row(from.row(row) + part, weight.data(), eps, to + part, rows, row, false);
}

// An item is a page's worth of rows for one head: all its lines are fetched before the first is written, as a key that
// has been left to the memory is waited for channel by channel.
class CacheWrite : public Operation {
  public:
    CacheWrite(int k, int v, int layer) : k_(k), v_(v), layer_(layer) {}
    std::string name() const override { return "cache write"; }

    int plan(Context& context) override {
        rows_ = context.rows_of(buffer_of(context, k_));
        return (rows_ + kKvBlock - 1) / kKvBlock * context.kv.heads;
    }

    void run(Context& context, const Turn& turn) override {
        const int head = turn.item % context.kv.heads, row0 = turn.item / context.kv.heads * kKvBlock;
        const int row1 = std::min(rows_, row0 + kKvBlock);
        fetch_keys(context, row0, row1, layer_, head);
        fetch_values(context, row0, row1, layer_, head);
        write_keys(context, row0, row1, layer_, head, buffer_of(context, k_));
        write_values(context, row0, row1, layer_, head, buffer_of(context, v_));
    }

  private:
    int k_, v_, layer_, rows_ = 0;
};

}  // namespace

void add_embedding(Program& program, EmbeddingOptions options) {
    check_width(program, options.out, options.width, "embedding");
    program.add(std::make_unique<Embedding>(std::move(options)));
}

void add_rope_angles(Program& program, RopeAnglesOptions options) {
    check_width(program, options.out, int(2 * options.inverse_frequencies.size()), "rope angles");
    program.add(std::make_unique<RopeAngles>(std::move(options)));
}

void add_select_rows(Program& program, int input, int out) {
    add_rowwise(program, "select rows", out, [=](Context& context, int row, float* to) {
        const Buffer& from = buffer_of(context, input);
        std::memcpy(to, from.row(context.step.logit_rows[size_t(row)]), from.width * sizeof(float));
    });
}

void add_rms_norm(Program& program, int input, std::vector<float> weight, float eps, int out) {
    check_norm(program, input, weight, out);
    add_rowwise(program, "rms norm", out, [=, weight = std::move(weight)](Context& context, int row, float* to) {
        norm_parts(context, buffer_of(context, input), row, weight, eps, to);
    });
}

void add_gated_rms_norm(Program& program, int input, int gate, std::vector<float> weight, float eps,
                        Activation activation, int out) {
    check_norm(program, input, weight, out);
    check_width(program, gate, buffer_of(program.context(), out).width, "gated rms norm");
    add_rowwise(program, "gated rms norm", out, [=, weight = std::move(weight)](Context& context, int row, float* to) {
        const Buffer &from = buffer_of(context, input), &by = buffer_of(context, gate);
        norm_parts(context, from, row, weight, eps, to);
        context.kernels->gate(to, by.row(row), to, from.width, activation);
    });
}

void add_layer_norm(Program& program, int input, std::vector<float> weight, std::vector<float> bias, float eps,
                    int out) {
    check_width(program, input, int(weight.size()), "layer norm");
    check_width(program, out, int(bias.size()), "layer norm");
    check_width(program, out, int(weight.size()), "layer norm");
    add_rowwise(program, "layer norm", out,
                [=, weight = std::move(weight), bias = std::move(bias)](Context& context, int row, float* to) {
                    context.kernels->layer_norm(buffer_of(context, input).row(row), weight.data(), bias.data(), eps, to,
                                                int(weight.size()));
                });
}

void add_gate(Program& program, int x, int gate, Activation activation, int out) {
    const int width = buffer_of(program.context(), x).width;
    const bool one = buffer_of(program.context(), gate).width == 1;
    check_width(program, out, width, "gate");
    if (!one) check_width(program, gate, width, "gate");
    add_rowwise(program, "gate", out, [=](Context& context, int row, float* to) {
        const float *from = buffer_of(context, x).row(row), *by = buffer_of(context, gate).row(row);
        if (!one) return context.kernels->gate(from, by, to, width, activation);
        float factor[16] = {1};  // kernels write whole vectors
        context.kernels->gate(factor, by, factor, 1, activation);
        multiply(from, factor[0], to, width);
    });
}

void add_scale_by_position(Program& program, int input, float scale, float step, int out) {
    const int width = buffer_of(program.context(), input).width;
    check_width(program, out, width, "scale by position");
    add_rowwise(program, "scale by position", out, [=](Context& context, int row, float* to) {
        const float steps = std::floor((float(context.step.positions[size_t(row)]) + 1) / step);
        const float factor = 1 + scale * std::log1p(steps);
        multiply(buffer_of(context, input).row(row), factor, to, width);
    });
}

void add_rope(Program& program, int input, int num_heads, int head_dim, RopeOptions rope, int out) {
    check_width(program, input, num_heads * head_dim, "rope");
    check_width(program, rope.angles, rope.rotary_dim, "rope");
    if (rope.first < 0 || rope.first + rope.rotary_dim > head_dim) throw std::invalid_argument("rope: channels");
    add_rowwise(program, "rope", out, [=](Context& context, int row, float* to) {
        if (input != out)
            std::memcpy(to, buffer_of(context, input).row(row), size_t(num_heads) * head_dim * sizeof(float));
        turn(context, rope, row, to, num_heads, head_dim);
    });
}

void add_cache_write(Program& program, int k, int v, int layer) {
    check_width(program, k, program.context().kv.heads * program.context().kv.head_dim, "cache write");
    program.add(std::make_unique<CacheWrite>(k, v, layer));
}

void add_swiglu(Program& program, int gate, int up, Glu glu, int out) {
    check_width(program, gate, buffer_of(program.context(), out).width, "swiglu");
    check_width(program, up, buffer_of(program.context(), out).width, "swiglu");
    add_rowwise(program, "swiglu", out, [=](Context& context, int row, float* to) {
        context.kernels->swiglu(buffer_of(context, gate).row(row), buffer_of(context, up).row(row), to,
                                buffer_of(context, out).width, glu);
    });
}

void add_add(Program& program, int a, int b, float a_scale, float b_scale, int out) {
    check_width(program, a, buffer_of(program.context(), out).width, "add");
    check_width(program, b, buffer_of(program.context(), out).width, "add");
    add_rowwise(program, "add", out, [=](Context& context, int row, float* to) {
        context.kernels->add(buffer_of(context, a).row(row), buffer_of(context, b).row(row), to,
                             buffer_of(context, out).width, a_scale, b_scale);
    });
}

}  // namespace freehold
