// Thread pools, packed weights, and programs with their operations.
#include <algorithm>
#include <atomic>
#include <stdexcept>

#include "bindings/bindings.h"
#include "memory.h"
#include "operations.h"
#include "packed.h"
#include "threads.h"

namespace freehold {

namespace {

struct Pool {
    const Kernels* kernels;
    std::shared_ptr<ThreadPool> threads;
};

Pool make_pool(int num_threads, const std::string& isa) {
    return {&kernels_of(isa), std::make_shared<ThreadPool>(num_threads)};
}

// Repacked weights, side by side in huge pages.
class WeightArena {
  public:
    explicit WeightArena(size_t bytes) : bytes_(bytes), pages_(std::make_shared<const Pages>(bytes)) {}

    PackedWeight place(Format format, int rows, int cols) {
        PackedWeight weight{format, rows, cols, panel_bytes(format, cols), pages_->data() + used_, pages_};
        const size_t bytes = weight.panel_stride * size_t(weight.num_panels());
        if (used_ + bytes > bytes_) throw std::invalid_argument("the weight arena is full");
        used_ += bytes;
        return weight;
    }

  private:
    size_t bytes_, used_ = 0;
    std::shared_ptr<const Pages> pages_;
};

size_t packed_bytes(const std::string& format, int rows, int cols) {
    return panel_bytes(format_from_name(format.c_str()), cols) * size_t((rows + kPanelRows - 1) / kPanelRows);
}

// Each (format, rows, cols, bytes of the file's blocks, whether these are mapped from a file) repacked, all panels
// shared out to the pool's threads. The pages of a mapped tensor are let go behind it, so that memory holds one copy.
// The caller's thread calls `meanwhile` and then lends a hand.
std::vector<PackedWeight> pack(Pool& pool, WeightArena& arena,
                               const std::vector<std::tuple<std::string, int, int, Bytes, bool>>& tensors,
                               const std::optional<nb::callable>& meanwhile) {
    std::vector<PackedWeight> weights;
    std::vector<std::pair<int, int>> panels;
    for (const auto& [name, rows, cols, bytes, mapped] : tensors) {
        const Format format = format_from_name(name.c_str());
        const FormatInfo& info = format_info(format);
        if (rows <= 0 || cols <= 0 || cols % info.block_elements) throw std::invalid_argument("pack: shape");
        if (bytes.size() != size_t(rows) * (size_t(cols) / info.block_elements) * info.block_bytes)
            throw std::invalid_argument("pack: " + std::to_string(bytes.size()) + " bytes do not make that shape");
        weights.push_back(arena.place(format, rows, cols));
        for (int panel = 0; panel < weights.back().num_panels(); panel++)
            panels.emplace_back(int(weights.size()) - 1, panel);
    }
    std::vector<std::atomic<int>> done(tensors.size());
    std::exception_ptr failure;
    const auto call_meanwhile = [&] {
        nb::gil_scoped_acquire acquire;
        try {
            if (meanwhile) (*meanwhile)();
        } catch (...) {
            failure = std::current_exception();
        }
    };
    const auto pack_item = [&](int item, int) {
        const auto [index, panel] = panels[size_t(item)];
        const PackedWeight& weight = weights[size_t(index)];
        const auto& [name, rows, cols, bytes, mapped] = tensors[size_t(index)];
        pack_panel(weight, bytes.data(), panel);
        if (done[size_t(index)].fetch_add(1) + 1 == weight.num_panels() && mapped)
            release_pages(bytes.data(), bytes.size());
    };
    {
        nb::gil_scoped_release release;
        pool.threads->parallel_for(int(panels.size()), pack_item, call_meanwhile);
    }
    if (failure) std::rethrow_exception(failure);
    return weights;
}

KvFormat kv_format(const std::string& name) {
    constexpr std::pair<const char*, KvFormat> kFormats[] = {
        {"int16", KvFormat::Int16}, {"bf16", KvFormat::BF16}, {"int8", KvFormat::Int8}, {"f32", KvFormat::F32}};
    for (const auto& [known, format] : kFormats)
        if (name == known) return format;
    throw std::invalid_argument("unknown KV format " + name);
}

const char* row_format_name(RowFormat format) {
    return format == RowFormat::Int16 ? "int16" : format == RowFormat::BF16 ? "bf16" : "f32";
}

Step make_step(std::vector<int32_t> tokens, std::vector<int32_t> positions, const std::vector<int>& row_starts,
               std::vector<std::vector<int32_t>> block_tables, std::vector<int32_t> logit_rows) {
    if (row_starts.size() != block_tables.size() + 1) throw std::invalid_argument("step: row_starts and block_tables");
    Step step{std::move(tokens), std::move(positions), {}, std::move(logit_rows)};
    for (size_t r = 0; r < block_tables.size(); r++) {
        const int first = row_starts[r];
        if (first < 0 || first >= step.num_rows()) throw std::invalid_argument("step: row_starts");
        step.requests.push_back(
            {first, row_starts[r + 1] - first, step.positions.at(size_t(first)), std::move(block_tables[r]), {}});
    }
    return step;
}

nb::ndarray<nb::numpy, float, nb::ndim<2>> logits_array(const Program& program) {
    const size_t rows = size_t(program.num_logit_rows()), width = size_t(program.output_width());
    auto copy = std::make_unique_for_overwrite<float[]>(rows * width);
    for (size_t r = 0; r < rows; r++) std::copy_n(program.logits(int(r)), width, copy.get() + r * width);
    return to_array(std::move(copy), rows, width);
}

// Takes rows of another program's buffer as those of one of its own, which no operation writes.
void take_rows(Program& program, int buffer, Program& source, int from, const std::vector<int>& rows) {
    const auto& own = *program.context().buffers.at(size_t(buffer));
    const auto& other = *source.context().buffers.at(size_t(from));
    const int step_rows = source.context().rows_of(other);
    if (own.width != other.width || int(rows.size()) > program.context().limits.max_rows)
        throw std::invalid_argument("take_rows: shape");
    for (size_t i = 0; i < rows.size(); i++) {
        if (rows[i] < 0 || rows[i] >= step_rows) throw std::invalid_argument("take_rows: row out of range");
        std::copy_n(other.row(rows[i]), size_t(own.width), own.row(int(i)));
    }
}

ExpertMatrix packed_experts(std::vector<PackedWeight> packed, std::vector<float> bias) {
    return {std::move(packed), {}, std::move(bias)};
}

// `places`: of each expert, the file that has its blocks, and where.
ExpertMatrix lying_experts(ExpertCache& cache, const std::string& format, int rows, int cols,
                           const std::vector<std::pair<std::string, size_t>>& places, std::vector<float> bias) {
    const Format f = format_from_name(format.c_str());
    if (rows <= 0 || cols <= 0 || cols % format_info(f).block_elements) throw std::invalid_argument("experts: shape");
    const PackedWeight shape{f, rows, cols, panel_bytes(f, cols), nullptr, nullptr};
    ExpertMatrix matrix{std::vector<PackedWeight>(places.size(), shape), {}, std::move(bias)};
    for (const auto& [path, offset] : places) matrix.sources.emplace_back(cache.file(path), offset);
    return matrix;
}

void bind_add_experts(Program& program, int input, std::vector<float> norm, float eps, int logits, int out,
                      int residual, const RouterOptions& router, const ExpertMatrix& gate, const ExpertMatrix& up,
                      const ExpertMatrix& down, const Glu& glu, std::shared_ptr<ExpertCache> cache) {
    add_experts(program,
                {input, std::move(norm), eps, logits, out, residual, router, gate, up, down, glu, std::move(cache)});
}

void bind_experts(nb::module_& m) {
    nb::class_<RouterOptions>(m, "RouterOptions")
        .def(
            "__init__",
            [](RouterOptions* self, int top_k, bool sigmoid, int num_groups, int top_groups, bool best_two,
               bool normalize, float least_sum, float scale, bool scales_inputs, std::vector<float> correction) {
                new (self) RouterOptions{top_k,     sigmoid,   num_groups, top_groups,    best_two,
                                         normalize, least_sum, scale,      scales_inputs, std::move(correction)};
            },
            "top_k"_a, "sigmoid"_a, "num_groups"_a, "top_groups"_a, "best_two"_a, "normalize"_a, "least_sum"_a,
            "scale"_a, "scales_inputs"_a, "correction"_a);
    nb::class_<ExpertCache>(m, "ExpertCache")
        .def(nb::init<size_t, int>(), "slot_bytes"_a, "num_slots"_a)
        .def_prop_ro("hits", &ExpertCache::hits)
        .def_prop_ro("misses", &ExpertCache::misses);
    nb::class_<ExpertMatrix>(m, "ExpertMatrix");
    m.def("packed_experts", &packed_experts, "packed"_a, "bias"_a);
    m.def("lying_experts", &lying_experts, "cache"_a, "format"_a, "rows"_a, "cols"_a, "places"_a, "bias"_a);
    m.def(
        "experts_memory_bytes",
        [](int max_rows, int top_k, int inputs, int inner, bool plain_inputs, bool plain_inner) {
            return ExpertWidths{top_k, inputs, inner, plain_inputs, !plain_inputs, plain_inner, !plain_inner}.bytes(
                max_rows);
        },
        "max_rows"_a, "top_k"_a, "inputs"_a, "inner"_a, "plain_inputs"_a, "plain_inner"_a);
}

}  // namespace

const Kernels& kernels_of(const std::string& isa) {
    if (const Kernels* kernels = choose_kernels(isa)) return *kernels;
    throw std::invalid_argument("this machine cannot run the instruction set '" + isa + "'");
}

void bind_executor(nb::module_& m) {
    nb::class_<Pool>(m, "Pool")
        .def(
            "__init__",
            [](Pool* self, int threads, const std::string& isa) { new (self) Pool(make_pool(threads, isa)); },
            "threads"_a, "isa"_a = "")
        .def_prop_ro("isa", [](const Pool& self) { return std::string(self.kernels->name); })
        .def_prop_ro("threads", [](const Pool& self) { return self.threads->size(); })
        .def(
            "read_bandwidth", [](Pool& self) { return measure_read_bandwidth(*self.threads); },
            nb::call_guard<nb::gil_scoped_release>());
    m.def("supported_isas", [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : supported_kernels()) names.push_back(kernels->name);
        return names;
    });

    nb::class_<PackedWeight>(m, "PackedWeight");
    nb::class_<WeightArena>(m, "WeightArena").def(nb::init<size_t>(), "num_bytes"_a);
    m.def("packed_bytes", &packed_bytes, "format"_a, "rows"_a, "cols"_a);
    nb::class_<CacheLayout>(m, "CacheLayout")
        .def(
            "__init__",
            [](CacheLayout* self, const std::string& format, int layers, int kv_heads, int head_dim, int num_pages) {
                new (self) CacheLayout{{kv_format(format), layers, kv_heads, head_dim}, num_pages, {}, 0, 0};
            },
            "kv_format"_a, "layers"_a, "kv_heads"_a, "head_dim"_a, "num_pages"_a = 1)
        .def("add_rows", &CacheLayout::add_rows, "width"_a)
        .def("add_state", &CacheLayout::add_state, "floats"_a)
        .def_prop_ro("row_format", [](const CacheLayout& self) { return row_format_name(self.row_format()); })
        .def_prop_ro("block_bytes", &CacheLayout::block_bytes);
    m.attr("PAGE_TOKENS") = kKvBlock;
    m.attr("ROW_COLUMNS") = kRowColumns;
    m.def("pack", &pack, "pool"_a, "arena"_a, "tensors"_a, "meanwhile"_a.none() = nb::none());
    m.def("release_pages", [](const Bytes& mapped) { release_pages(mapped.data(), mapped.size()); });

    nb::class_<RopeOptions>(m, "RopeOptions")
        .def(nb::init<int, int, int, bool>(), "angles"_a, "first"_a, "rotary_dim"_a, "interleaved"_a);
    nb::class_<Glu>(m, "Glu").def(nb::init<float, float, float>(), "alpha"_a, "limit"_a, "offset"_a);
    nb::enum_<Activation>(m, "Activation").value("silu", Activation::Silu).value("sigmoid", Activation::Sigmoid);

    bind_experts(m);

    nb::class_<Program>(m, "Program")
        .def(
            "__init__",
            [](Program* self, Pool& pool, int max_rows, int max_logit_rows, const CacheLayout& cache, int num_blocks) {
                new (self) Program(*pool.kernels, pool.threads, {max_rows, max_logit_rows}, cache, num_blocks);
            },
            "pool"_a, "max_rows"_a, "max_logit_rows"_a, "cache"_a, "num_blocks"_a)
        .def("buffer", &Program::add_buffer, "width"_a, "logit_rows"_a)
        .def("output", &Program::set_output, "buffer"_a)
        .def(
            "embedding",
            [](Program& p, const std::string& format, Bytes table, const std::optional<std::string>& path,
               size_t offset, int rows, int width, int out) {
                const Format f = format_from_name(format.c_str());
                const FormatInfo& info = format_info(f);
                if (width % info.block_elements ||
                    table.size() != size_t(rows) * (size_t(width) / info.block_elements) * info.block_bytes)
                    throw std::invalid_argument("embedding: the bytes do not make that shape");
                add_embedding(p, {f,
                                  path ? TensorBytes(std::make_shared<TensorBytes::File>(*path), offset)
                                       : TensorBytes(table.data()),
                                  rows, width, out});
            },
            nb::keep_alive<1, 3>(), "format"_a, "table"_a, "path"_a.none(), "offset"_a, "rows"_a, "width"_a, "out"_a)
        .def("rope_angles", [](Program& p, std::vector<float> frequencies, float scale,
                               int out) { add_rope_angles(p, {std::move(frequencies), scale, out}); })
        .def(
            "linear",
            [](Program& p, std::string name, int input, std::vector<float> norm, float eps,
               std::vector<std::tuple<PackedWeight, std::vector<float>, int>> projections, int residual,
               const std::string& epilogue, const std::optional<RopeOptions>& rope, int layer) {
                LinearOptions options{std::move(name),
                                      input,
                                      std::move(norm),
                                      eps,
                                      {},
                                      residual,
                                      Epilogue::None,
                                      rope.value_or(RopeOptions()),
                                      layer};
                if (epilogue == "swiglu") options.epilogue = Epilogue::Swiglu;
                if (epilogue == "cache") options.epilogue = Epilogue::Cache;
                for (auto& [weight, bias, out] : projections)
                    options.projections.push_back({weight, std::move(bias), out});
                add_linear(p, std::move(options));
            },
            "name"_a, "input"_a, "norm"_a, "eps"_a, "projections"_a, "residual"_a = -1, "epilogue"_a = "",
            "rope"_a = nb::none(), "layer"_a = 0)
        .def(
            "attention",
            [](Program& p, int q, int out, int layer, int num_heads, float scale, int window, int chunk,
               std::vector<float> sinks) {
                add_attention(p, {q, out, layer, num_heads, scale, window, chunk, std::move(sinks)});
            },
            "q"_a, "out"_a, "layer"_a, "num_heads"_a, "scale"_a, "window"_a = 0, "chunk"_a = 0,
            "sinks"_a = std::vector<float>())
        .def("experts", &bind_add_experts, "input"_a, "norm"_a, "eps"_a, "logits"_a, "out"_a, "residual"_a, "router"_a,
             "gate"_a, "up"_a, "down"_a, "glu"_a, "cache"_a.none())
        .def(
            "keep_rows",
            [](Program& p, const std::vector<std::pair<int, int>>& parts) {
                std::vector<KeptPart> kept;
                for (const auto& [input, rows] : parts) kept.push_back({input, rows});
                add_keep_rows(p, std::move(kept));
            },
            "parts"_a)
        .def(
            "head_linear",
            [](Program& p, std::string name, int input, int in_stride, std::vector<PackedWeight> weights, int out,
               int out_stride) {
                add_head_linear(p, {std::move(name), input, in_stride, out, out_stride, std::move(weights)});
            },
            "name"_a, "input"_a, "in_stride"_a, "weights"_a, "out"_a, "out_stride"_a)
        .def(
            "latent_attention",
            [](Program& p, int absorbed, int q, int out, int latents, int rope_keys, int num_heads, int plain_dim,
               float scale, int selected, int top_k) {
                add_latent_attention(
                    p, {absorbed, q, out, latents, rope_keys, num_heads, plain_dim, scale, selected, top_k});
            },
            "absorbed"_a, "q"_a, "out"_a, "latents"_a, "rope_keys"_a, "num_heads"_a, "plain_dim"_a, "scale"_a,
            "selected"_a = -1, "top_k"_a = 0)
        .def(
            "select_keys",
            [](Program& p, int q, int weights, int keys, int num_heads, int top_k, int out) {
                add_select_keys(p, {q, weights, keys, num_heads, top_k, out});
            },
            "q"_a, "weights"_a, "keys"_a, "num_heads"_a, "top_k"_a, "out"_a)
        .def("select_rows", &add_select_rows, "input"_a, "out"_a)
        .def(
            "short_convolutions",
            [](Program& p, int taps, std::vector<std::tuple<int, int, std::vector<float>, size_t>> parts) {
                std::vector<Convolution> convolutions;
                for (auto& [input, out, weight, state] : parts)
                    convolutions.push_back({input, out, std::move(weight), state});
                add_short_convolutions(p, taps, std::move(convolutions));
            },
            "taps"_a, "parts"_a)
        .def(
            "delta_rule",
            [](Program& p, int q, int k, int v, int decay, int beta, int out, std::vector<int> prepared, int heads,
               int key_heads, bool tiled, std::vector<float> rate, std::vector<float> decay_bias, size_t state) {
                add_recurrence(p, {.name = "delta rule",
                                   .q = q,
                                   .k = k,
                                   .v = v,
                                   .out = out,
                                   .num_heads = heads,
                                   .num_key_heads = key_heads,
                                   .tiled_heads = tiled,
                                   .state = state,
                                   .prepared_q = prepared.at(0),
                                   .prepared_k = prepared.at(1),
                                   .decays = prepared.at(2),
                                   .strengths = prepared.at(3),
                                   .decay = decay,
                                   .beta = beta,
                                   .rate = std::move(rate),
                                   .decay_bias = std::move(decay_bias),
                                   .slopes = {}});
            },
            "q"_a, "k"_a, "v"_a, "decay"_a, "beta"_a, "out"_a, "prepared"_a, "heads"_a, "key_heads"_a, "tiled_heads"_a,
            "rate"_a, "decay_bias"_a, "state"_a)
        .def(
            "lightning_attention",
            [](Program& p, int q, int k, int v, int out, std::vector<int> prepared, std::vector<float> slopes,
               size_t state) {
                const int heads = int(slopes.size());
                add_recurrence(p, {.name = "lightning attention",
                                   .q = q,
                                   .k = k,
                                   .v = v,
                                   .out = out,
                                   .num_heads = heads,
                                   .num_key_heads = heads,
                                   .state = state,
                                   .prepared_q = prepared.at(0),
                                   .prepared_k = prepared.at(1),
                                   .prepared_v = prepared.at(2),
                                   .rate = {},
                                   .decay_bias = {},
                                   .slopes = std::move(slopes)});
            },
            "q"_a, "k"_a, "v"_a, "out"_a, "prepared"_a, "slopes"_a, "state"_a)
        .def("rms_norm", &add_rms_norm, "input"_a, "weight"_a, "eps"_a, "out"_a)
        .def("layer_norm", &add_layer_norm, "input"_a, "weight"_a, "bias"_a, "eps"_a, "out"_a)
        .def("gated_rms_norm", &add_gated_rms_norm, "input"_a, "gate"_a, "weight"_a, "eps"_a, "activation"_a, "out"_a)
        .def("gate", &add_gate, "x"_a, "gate"_a, "activation"_a, "out"_a)
        .def("scale_by_position", &add_scale_by_position, "input"_a, "scale"_a, "step"_a, "out"_a)
        .def("rope", &add_rope, "input"_a, "heads"_a, "head_dim"_a, "rope"_a, "out"_a)
        .def("cache_write", &add_cache_write, "k"_a, "v"_a, "layer"_a)
        .def("swiglu", &add_swiglu, "gate"_a, "up"_a, "glu"_a, "out"_a)
        .def("add", &add_add, "a"_a, "b"_a, "a_scale"_a, "b_scale"_a, "out"_a)
        .def(
            "run",
            [](Program& p, std::vector<int32_t> tokens, std::vector<int32_t> positions,
               const std::vector<int>& row_starts, std::vector<std::vector<int32_t>> block_tables,
               std::vector<int32_t> logit_rows) {
                Step step = make_step(std::move(tokens), std::move(positions), row_starts, std::move(block_tables),
                                      std::move(logit_rows));
                nb::gil_scoped_release release;
                p.run(std::move(step));
            },
            "tokens"_a, "positions"_a, "row_starts"_a, "block_tables"_a, "logit_rows"_a)
        .def("logits", &logits_array)
        .def("sample", &sample_rows, "samplers"_a, "drafts"_a)
        .def("take_rows", &take_rows, "buffer"_a, "source"_a, "from_buffer"_a, "rows"_a)
        .def("copy_block", &Program::copy_block, "source"_a, "target"_a)
        .def("set_profiling", &Program::set_profiling, "on"_a)
        .def("profile", [](const Program& p) {
            std::vector<std::tuple<std::string, long, double>> rows;
            for (const OperationTime& t : p.profile()) rows.emplace_back(t.name, t.calls, t.seconds);
            return rows;
        });
}

}  // namespace freehold
