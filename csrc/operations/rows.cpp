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

void add_layer_norm(Program& program, int input, std::vector<float> weight, std::vector<float> bias, float eps,
                    int out) {
    add_rowwise(program, "layer norm", out, [=](Context& context, int row, float* to) {
        const float* x = buffer_of(context, input).row(row);
        const int n = int(weight.size());
        float mean = 0, variance = 0;
        for (int i = 0; i < n; i++) mean += x[i] / float(n);
        for (int i = 0; i < n; i++) variance += (x[i] - mean) * (x[i] - mean) / float(n);
        const float inverse = 1 / std::sqrt(variance + eps);
        for (int i = 0; i < n; i++) to[i] = (x[i] - mean) * inverse * weight[size_t(i)] + bias[size_t(i)];
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
