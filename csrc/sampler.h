// Draws the next token of one request from its logits.
//
// Order: logit bias; repetition, presence and frequency penalties; temperature; top-k; top-p; min-p. Log-probabilities
// are of the true distribution: log-softmax of the raw logits, before all of these. The draw depends on the seed and on
// how many tokens the request has drawn, on nothing else.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

#include "kernels/kernels.h"

namespace freehold {

struct SamplerOptions {
    float temperature = 1;  // 0: the most likely token, of equals the first
    int top_k = 0;          // 0: all
    float top_p = 1, min_p = 0;
    float repetition_penalty = 1;                       // of tokens in prompt and reply (Keskar et al. 2019)
    float presence_penalty = 0, frequency_penalty = 0;  // of tokens in the reply
    uint64_t seed = 0;
    int num_logprobs = 0;  // likeliest tokens to report
    std::vector<std::pair<int, float>> logit_bias;
};

struct TokenLogprob {
    int token;
    float logprob;
};

struct Sample {
    TokenLogprob chosen;  // token -1: the logits hold a NaN, or no token is possible
    std::vector<TokenLogprob> top;
};

class Sampler {
  public:
    Sampler(SamplerOptions options, std::vector<int> prompt);
    Sample sample(const Kernels& kernels, const float* logits, int vocabulary);

  private:
    struct Candidate {
        float logit;
        int token;
    };

    bool changes_logits() const;
    const float* adjust(const float* logits, int vocabulary);
    int choose(const Kernels& kernels, const float* logits, int vocabulary);
    int draw_from_all(const Kernels& kernels, const float* logits, int vocabulary, float max, double threshold) const;
    void select(const float* logits, int vocabulary, float limit);
    void select_top(const float* logits, int vocabulary, int count);
    void sort_candidates();
    double weight(float logit, float max) const;
    double next_uniform();

    SamplerOptions options_;
    std::vector<int> prompt_;             // distinct tokens
    std::unordered_map<int, int> reply_;  // token: times drawn
    uint64_t drawn_ = 0;
    std::vector<float> adjusted_;  // reused from call to call
    std::vector<Candidate> candidates_;
};

}  // namespace freehold
