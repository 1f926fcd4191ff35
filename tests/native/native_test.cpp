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
                    CacheLayout{{KvFormat::Int16, 1, kKvHeads, kHeadDim}, 1, {}, 0, 0}, 12);
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

// A layer that keeps a state, over the end of a block, with heads that fill no vector.
void run_states(const Kernels& kernels) {
    constexpr int kKeyHeads = 2, kValueHeads = 4, kKeyDim = 5, kValueDim = 33, kTaps = 4, kInput = 64;
    const int keys = kKeyHeads * kKeyDim, values = kValueHeads * kValueDim;
    CacheLayout cache{{KvFormat::Int16, 0, 1, 1}, 8, {}, 0, 0};
    const size_t q_state = cache.add_state((kTaps - 1) * keys), v_state = cache.add_state((kTaps - 1) * values);
    const size_t state = cache.add_state(size_t(kValueHeads) * kKeyDim * kValueDim);
    Program program(kernels, std::make_shared<ThreadPool>(2), {320, 4}, cache, 12);
    Weights weights{Format::F32};
    const auto buffer = [&](int width) { return program.add_buffer(width, false); };
    const std::vector<float> table(10 * kInput, 0.25f);
    const int x = buffer(kInput), q = buffer(keys), k = buffer(keys), v = buffer(values);
    const int beta = buffer(kValueHeads), decay = buffer(kValueHeads * kKeyDim), out = buffer(values);
    const int logits = program.add_buffer(values, true);
    add_embedding(program, {Format::F32, TensorBytes(reinterpret_cast<const uint8_t*>(table.data())), 10, kInput, x});
    std::vector<Projection> projections;
    for (int to : {q, v, beta, decay})
        projections.push_back({weights.make(program.context().buffers[size_t(to)]->width, kInput), {}, to});
    add_linear(program, {"in", x, {}, 0, projections, -1, Epilogue::None, {}, 0});
    const int mixed_q = buffer(keys), mixed_v = buffer(values);
    add_short_convolutions(program, kTaps,
                           {{q, mixed_q, std::vector<float>(size_t(kTaps) * keys, 0.5f), q_state},
                            {v, mixed_v, std::vector<float>(size_t(kTaps) * values, 0.5f), v_state}});
    add_recurrence(program, {.name = "delta",
                             .q = mixed_q,
                             .k = mixed_q,
                             .v = mixed_v,
                             .out = out,
                             .num_heads = kValueHeads,
                             .num_key_heads = kKeyHeads,
                             .state = state,
                             .prepared_q = q,
                             .prepared_k = k,
                             .decays = decay,
                             .strengths = beta,
                             .decay = decay,
                             .beta = beta,
                             .rate = std::vector<float>(kValueHeads, 0.1f),
                             .decay_bias = std::vector<float>(kValueHeads * kKeyDim, 0.2f),
                             .slopes = {}});
    add_select_rows(program, out, logits);
    program.set_output(logits);
    int position = 0;
    for (int rows : {1, 5, 240, 300, 1, 3}) {
        program.run(step(rows, position));
        position += rows;
    }
}

// Latent attention of selected keys, past a span of them, with heads and rows that fill no vector.
void run_latents(const Kernels& kernels, Format format, KvFormat kv) {
    constexpr int kLatentHeads = 5, kRank = 256, kPlain = 256, kRope = 9, kValue = 20, kIndexHeads = 3, kIndex = 24;
    CacheLayout cache{{kv, 0, 1, 1}, 1, {}, 0, 0};
    const int latents = cache.add_rows(kRank), rope_keys = cache.add_rows(kRope), index_keys = cache.add_rows(kIndex);
    Program program(kernels, std::make_shared<ThreadPool>(2), {320, 4}, cache, 12);
    Weights weights{format}, plain{Format::F32};
    const auto buffer = [&](int width) { return program.add_buffer(width, false); };
    const auto stack = [&](int rows, int cols) {
        std::vector<PackedWeight> heads;
        for (int head = 0; head < kLatentHeads; head++) heads.push_back(weights.make(rows, cols));
        return heads;
    };
    const std::vector<float> table(10 * kWidth, 0.25f);
    const int x = buffer(kWidth), q = buffer(kLatentHeads * (kPlain + kRope)), latent = buffer(kRank);
    const int turned = buffer(kRope), index_q = buffer(kIndexHeads * kIndex), index_k = buffer(kIndex);
    const int index_weights = buffer(kIndexHeads), selected = buffer(280), absorbed = buffer(kLatentHeads * kRank);
    const int out = buffer(kLatentHeads * kValue), rows = program.add_buffer(kLatentHeads * kValue, true);
    add_embedding(program, {Format::F32, TensorBytes(reinterpret_cast<const uint8_t*>(table.data())), 10, kWidth, x});
    std::vector<Projection> projections;
    for (int to : {q, latent, turned, index_q, index_k, index_weights})
        projections.push_back({plain.make(program.context().buffers[size_t(to)]->width, kWidth), {}, to});
    add_linear(program, {"in", x, {}, 0, projections, -1, Epilogue::None, {}, 0});
    add_keep_rows(program, {{index_k, index_keys}});
    add_select_keys(program, {index_q, index_weights, index_keys, kIndexHeads, 280, selected});
    add_head_linear(program, {"key up", q, kPlain + kRope, absorbed, kRank, stack(kRank, kPlain)});
    add_keep_rows(program, {{latent, latents}, {turned, rope_keys}});
    add_latent_attention(program, {.absorbed = absorbed,
                                   .q = q,
                                   .out = absorbed,
                                   .latents = latents,
                                   .rope_keys = rope_keys,
                                   .num_heads = kLatentHeads,
                                   .plain_dim = kPlain,
                                   .scale = 0.1f,
                                   .selected = selected,
                                   .top_k = 280});
    add_head_linear(program, {"value up", absorbed, kRank, out, kValue, stack(kValue, kRank)});
    add_select_rows(program, out, rows);
    program.set_output(rows);
    int position = 0;
    for (int count : {1, 5, 20, 290, 1, 3}) {
        program.run(step(count, position));
        position += count;
    }
}

}  // namespace

int main() {
    int runs = 0;
    for (const Kernels* kernels : supported_kernels()) {
        for (int format = 0; format < kNumFormats; format++, runs++) run(*kernels, Format(format), KvFormat::Int16);
        for (int format = 0; format < kNumFormats; format++, runs++) run_experts(*kernels, Format(format), -1);
        for (int slots : {0, 2, 7}) run_experts(*kernels, Format::Q4_K, slots), runs++;
        run_states(*kernels), runs++;
        for (Format format : {Format::F32, Format::BF16, Format::Q8_0, Format::Q4_K})
            run_latents(*kernels, format, KvFormat::Int16), runs++;
        for (KvFormat kv : {KvFormat::BF16, KvFormat::Int8, KvFormat::F32})
            run_latents(*kernels, Format::F16, kv), runs++;
        for (KvFormat kv : {KvFormat::BF16, KvFormat::Int8, KvFormat::F32}) run(*kernels, Format::Q8_0, kv), runs++;
    }
    std::printf("%d programs ran\n", runs);
}
