// The sampler of a request.
#include <cstring>
#include <stdexcept>

#include "bindings/bindings.h"
#include "threads.h"

namespace freehold {

namespace {

// (token, log-probability, [(token, log-probability)] of the likeliest)
nb::tuple to_python(const Sample& sample) {
    nb::list top;
    for (const TokenLogprob& t : sample.top) top.append(nb::make_tuple(t.token, t.logprob));
    return nb::make_tuple(sample.chosen.token, sample.chosen.logprob, top);
}

}  // namespace

nb::list sample_rows(Program& program, const std::vector<Sampler*>& samplers,
                     const std::vector<std::vector<int>>& drafts) {
    if (drafts.size() != samplers.size()) throw std::invalid_argument("sample: drafts of each sampler are needed");
    std::vector<int> first_rows;
    int rows = 0;
    for (size_t i = 0; i < samplers.size(); i++) {
        samplers[i]->check_vocabulary(program.output_width());
        first_rows.push_back(rows);
        rows += 1 + int(drafts[i].size());
    }
    if (rows != program.num_logit_rows())
        throw std::invalid_argument("sample: a sampler or a draft for each logit row is needed");
    std::vector<std::vector<Sample>> samples(samplers.size());
    {
        nb::gil_scoped_release release;
        const auto draw = [&](int i, int) {
            const size_t at = size_t(i);
            for (size_t n = 0; n <= drafts[at].size(); n++) {
                samples[at].push_back(samplers[at]->sample(
                    *program.context().kernels, program.logits(first_rows[at] + int(n)), program.output_width()));
                if (n < drafts[at].size() && samples[at].back().chosen.token != drafts[at][n]) break;
            }
        };
        if (samples.size() == 1)
            draw(0, 0);
        else
            program.pool().parallel_for(int(samples.size()), draw);
    }
    nb::list out;
    for (const std::vector<Sample>& drawn : samples) {
        nb::list row;
        for (const Sample& sample : drawn) row.append(to_python(sample));
        out.append(row);
    }
    return out;
}

void bind_sampler(nb::module_& m) {
    nb::class_<Sampler>(m, "Sampler")
        .def(
            "__init__",
            [](Sampler* self, float temperature, int top_k, float top_p, float min_p, float repetition_penalty,
               float presence_penalty, float frequency_penalty, uint64_t seed, int num_logprobs,
               std::vector<std::pair<int, float>> logit_bias, std::vector<int> prompt) {
                new (self) Sampler({temperature, top_k, top_p, min_p, repetition_penalty, presence_penalty,
                                    frequency_penalty, seed, num_logprobs, std::move(logit_bias)},
                                   std::move(prompt));
            },
            nb::kw_only(), "temperature"_a = 1.0f, "top_k"_a = 0, "top_p"_a = 1.0f, "min_p"_a = 0.0f,
            "repetition_penalty"_a = 1.0f, "presence_penalty"_a = 0.0f, "frequency_penalty"_a = 0.0f, "seed"_a = 0,
            "num_logprobs"_a = 0, "logit_bias"_a = std::vector<std::pair<int, float>>(),
            "prompt"_a = std::vector<int>())
        .def(
            "allow",
            [](Sampler& self, const nb::bytes& bits) {  // little-endian words of 32 tokens
                std::vector<uint32_t> words(bits.size() / sizeof(uint32_t));
                std::memcpy(words.data(), bits.data(), words.size() * sizeof(uint32_t));
                self.allow(std::move(words));
            },
            "bits"_a)
        .def(
            "sample",
            [](Sampler& self, Floats logits, const std::string& isa) {
                const Kernels& kernels = kernels_of(isa);
                self.check_vocabulary(int(logits.size()));
                return to_python(self.sample(kernels, logits.data(), int(logits.size())));
            },
            "logits"_a, "isa"_a = "");
}

}  // namespace freehold
