// A whole program on random weights, every format, instruction set and KV format, for the sanitizers to watch.
// What it computes is checked from Python (tests/unit/test_kernels.py, tests/parity).
#include <cmath>
#include <cstdio>
#include <memory>
#include <random>

#include "operations.h"
#include "sampler.h"

using namespace freehold;

namespace {

constexpr int kWidth = 256, kHeads = 4, kKvHeads = 2, kHeadDim = 64, kInner = 512, kVocabulary = 300;

class Weights {
  public:
    explicit Weights(Format format) : format_(format) {}

    std::vector<uint8_t> source(int rows, int cols) {
        const FormatInfo& info = format_info(format_);
        std::vector<uint8_t> source(size_t(rows) * cols / info.block_elements * info.block_bytes);
        for (auto& byte : source) byte = uint8_t(random_() & 0x3f);  // keeps half-precision scales small and finite
        return source;
    }

    PackedWeight make(int rows, int cols) {
        const std::vector<uint8_t> source = this->source(rows, cols);
        const size_t stride = panel_bytes(format_, cols);
        auto pages = std::make_shared<const Pages>(stride * size_t((rows + 15) / 16));
        PackedWeight weight{format_, rows, cols, stride, pages->data(), pages};
        for (int panel = 0; panel < weight.num_panels(); panel++) pack_panel(weight, source.data(), panel);
        return weight;
    }

  private:
    Format format_;
    std::mt19937 random_{7};
};

void build(Program& program, Format format, const std::vector<float>& table) {
    Weights weights(format);
    const auto buffer = [&](int width, bool logit_rows = false) { return program.add_buffer(width, logit_rows); };
    const int x = buffer(kWidth), angles = buffer(kHeadDim), q = buffer(kHeads * kHeadDim),
              k = buffer(kKvHeads * kHeadDim);
    const int v = buffer(kKvHeads * kHeadDim), attended = buffer(kHeads * kHeadDim), gate = buffer(kInner),
              up = buffer(kInner);
    const int rows = buffer(kWidth, true), logits = buffer(kVocabulary, true);
    const std::vector<float> norm(kWidth, 1.0f), bias(kHeads * kHeadDim, 0.5f);
    add_embedding(program, {Format::F32, TensorBytes(reinterpret_cast<const uint8_t*>(table.data())), 10, kWidth, x});
    add_rope_angles(program, {std::vector<float>(kHeadDim / 2, 0.1f), 1.0f, angles});
    add_linear(program, {"qkv",
                         x,
                         norm,
                         1e-5f,
                         {{weights.make(kHeads * kHeadDim, kWidth), bias, q},
                          {weights.make(kKvHeads * kHeadDim, kWidth), {}, k},
                          {weights.make(kKvHeads * kHeadDim, kWidth), {}, v}},
                         -1,
                         Epilogue::Cache,
                         {angles, 0, kHeadDim, false},
                         0});
    add_attention(program, {q, attended, 0, kHeads, 0.125f, 0, 0, {}});
    add_linear(program,
               {"o", attended, {}, 0, {{weights.make(kWidth, kHeads * kHeadDim), {}, x}}, x, Epilogue::None, {}, 0});
    add_linear(program, {"gate",
                         x,
                         norm,
                         1e-5f,
                         {{weights.make(kInner, kWidth), {}, gate}, {weights.make(kInner, kWidth), {}, up}},
                         -1,
                         Epilogue::Swiglu,
                         {},
                         0});
    add_linear(program, {"down", gate, {}, 0, {{weights.make(kWidth, kInner), {}, x}}, x, Epilogue::None, {}, 0});
    add_select_rows(program, x, rows);
    add_linear(
        program,
        {"head", rows, norm, 1e-5f, {{weights.make(kVocabulary, kWidth), {}, logits}}, -1, Epilogue::None, {}, 0});
    program.set_output(logits);
}

// Routed experts, packed or in `cache`, and the operations over single rows.
void build_experts(Program& program, Format format, const std::vector<float>& table,
                   const std::shared_ptr<ExpertCache>& cache, std::vector<std::vector<uint8_t>>& sources) {
    constexpr int experts = 6, inner = 256;
    Weights weights(format);
    const auto buffer = [&](int width, bool logit_rows = false) { return program.add_buffer(width, logit_rows); };
    const int x = buffer(kWidth), angles = buffer(24), scores = buffer(experts), one = buffer(1), y = buffer(kWidth);
    const int rows = buffer(kWidth, true);
    const auto matrix = [&](int outputs, int inputs) {
        ExpertMatrix result{{}, {}, std::vector<float>(size_t(experts * outputs), 0.1f)};
        for (int e = 0; e < experts; e++) {
            result.packed.push_back(weights.make(outputs, inputs));
            if (!cache) continue;
            sources.push_back(weights.source(outputs, inputs));
            result.sources.emplace_back(sources.back().data());
            result.packed.back().data = nullptr;
        }
        return result;
    };
    const std::vector<float> norm(kWidth, 1.0f), head(kHeadDim, 1.0f);
    add_embedding(program, {Format::F32, TensorBytes(reinterpret_cast<const uint8_t*>(table.data())), 10, kWidth, x});
    add_rope_angles(program, {std::vector<float>(12, 0.1f), 1.0f, angles});
    add_rope(program, x, kHeads, kHeadDim, {angles, kHeadDim - 24, 24, true}, x);
    add_scale_by_position(program, x, 0.1f, 8, x);
    add_layer_norm(program, x, norm, norm, 1e-5f, y);
    add_gated_rms_norm(program, x, y, head, 1e-5f, Activation::Silu, y);
    add_linear(program, {"one", y, {}, 0, {{weights.make(1, kWidth), {}, one}}, -1, Epilogue::None, {}, 0});
    add_gate(program, y, one, Activation::Sigmoid, y);
    add_gate(program, y, x, Activation::Sigmoid, y);
    add_add(program, x, y, 0.5f, 2, x);
    add_linear(program, {"route", x, {}, 0, {{weights.make(experts, kWidth), {}, scores}}, -1, Epilogue::None, {}, 0});
    for (const bool scales_inputs : {false, true}) {
        const RouterOptions router{2, scales_inputs, 3, 2, true, true, 1e-20f, 1.5f, scales_inputs, {0, 1, 0, 0, 1, 0}};
        const ExpertMatrix gate = matrix(inner, kWidth), up = matrix(inner, kWidth), down = matrix(kWidth, inner);
        add_experts(program, {x, norm, 1e-5f, scores, y, x, router, gate, up, down, {1.7f, 7, 1}, cache});
    }
    add_select_rows(program, y, rows);
    program.set_output(rows);
}

Step step(int rows, int position) {
    Step step;
    for (int i = 0; i < rows; i++) {
        step.tokens.push_back(i % 10);
        step.positions.push_back(position + i);
    }
    step.requests.push_back({0, rows, position, {3, 1, 4, 0, 5, 9, 2, 6, 8, 7, 10, 11}, {}});
    step.logit_rows = {rows - 1};
    return step;
}

void run_experts(const Kernels& kernels, Format format, int num_slots) {
    const std::vector<float> table(10 * kWidth, 0.25f);
    Program program(kernels, std::make_shared<ThreadPool>(2), {150, 4},
                    CacheLayout{{KvFormat::F16, 1, kKvHeads, kHeadDim}, 1, {}, 0, 0}, 12);
    const size_t slot = panel_bytes(format, kWidth) * (16 + 16 + kWidth / 16);
    const auto cache = num_slots < 0 ? nullptr : std::make_shared<ExpertCache>(slot, num_slots);
    std::vector<std::vector<uint8_t>> sources;
    sources.reserve(64);
    build_experts(program, format, table, cache, sources);
    int position = 0;
    for (int rows : {1, 5, 40, 150, 1, 3}) {
        program.run(step(rows, position));
        position += rows;
    }
}

void run(const Kernels& kernels, Format format, KvFormat kv) {
    const std::vector<float> table(10 * kWidth, 0.25f);
    Program program(kernels, std::make_shared<ThreadPool>(2), {320, 4},
                    CacheLayout{{kv, 1, kKvHeads, kHeadDim}, 1, {}, 0, 0}, 12);
    build(program, format, table);
    int position = 0;
    for (int rows : {1, 5, 20, 290, 1, 3}) {
        program.run(step(rows, position));
        position += rows;
    }
    for (float top_p : {1.0f, 0.9f}) {
        Sampler sampler({.temperature = 0.8f,
                         .top_k = 0,
                         .top_p = top_p,
                         .repetition_penalty = 1.1f,
                         .num_logprobs = 5,
                         .logit_bias = {}},
                        {1, 2});
        sampler.sample(kernels, program.logits(0), kVocabulary);
    }
}

}  // namespace

int main() {
    int runs = 0;
    for (const Kernels* kernels : supported_kernels()) {
        for (int format = 0; format < kNumFormats; format++, runs++) run(*kernels, Format(format), KvFormat::F16);
        for (int format = 0; format < kNumFormats; format++, runs++) run_experts(*kernels, Format(format), -1);
        for (int slots : {0, 2, 7}) run_experts(*kernels, Format::Q4_K, slots), runs++;
        for (KvFormat kv : {KvFormat::BF16, KvFormat::Int8, KvFormat::F32}) run(*kernels, Format::Q8_0, kv), runs++;
    }
    std::printf("%d programs ran\n", runs);
}
