#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace freehold {
namespace {

constexpr int kChunk = 1024;       // of the vocabulary, when drawing from all of it
constexpr float kFirstReach = 10;  // how far below the maximum top-p looks at first, in units of temperature

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

int argmax(const float* logits, int vocabulary, float max) {
    for (int i = 0; i < vocabulary; i++)
        if (logits[i] == max) return i;
    return -1;
}

}  // namespace

Sampler::Sampler(SamplerOptions options, std::vector<int> prompt)
    : options_(std::move(options)), prompt_(std::move(prompt)) {
    std::sort(prompt_.begin(), prompt_.end());
    prompt_.erase(std::unique(prompt_.begin(), prompt_.end()), prompt_.end());
}

Sample Sampler::sample(const Kernels& kernels, const float* logits, int vocabulary) {
    const float max = kernels.max(logits, vocabulary);
    const double log_total = double(max) + std::log(double(kernels.exp_sum(logits, vocabulary, max, 1.0f)));
    Sample sample{{-1, std::numeric_limits<float>::quiet_NaN()}, {}};
    if (!std::isfinite(log_total)) return sample;
    const auto logprob = [&](int token) { return TokenLogprob{token, float(double(logits[token]) - log_total)}; };
    if (options_.num_logprobs) {
        select_top(logits, vocabulary, std::min(options_.num_logprobs, vocabulary));
        for (const Candidate& candidate : candidates_) sample.top.push_back(logprob(candidate.token));
    }
    const int token = choose(kernels, adjust(logits, vocabulary), vocabulary);
    if (token < 0) return sample;
    sample.chosen = logprob(token);
    reply_[token]++;
    drawn_++;
    return sample;
}

bool Sampler::changes_logits() const {
    return !options_.logit_bias.empty() || options_.repetition_penalty != 1 || options_.presence_penalty != 0 ||
           options_.frequency_penalty != 0;
}

// Bias and penalties, on a copy; the logits themselves when there are none.
const float* Sampler::adjust(const float* logits, int vocabulary) {
    if (!changes_logits()) return logits;
    adjusted_.assign(logits, logits + vocabulary);
    for (const auto& [token, bias] : options_.logit_bias)
        if (token < vocabulary) adjusted_[size_t(token)] += bias;
    const auto repeat = [&](int token) {
        float& logit = adjusted_[size_t(token)];
        logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    };
    if (options_.repetition_penalty != 1)
        for (int token : prompt_) repeat(token);
    for (const auto& [token, times] : reply_) {
        if (options_.repetition_penalty != 1 && !std::binary_search(prompt_.begin(), prompt_.end(), token))
            repeat(token);
        adjusted_[size_t(token)] -= options_.presence_penalty + options_.frequency_penalty * float(times);
    }
    return adjusted_.data();
}

double Sampler::weight(float logit, float max) const {
    return std::exp((double(logit) - double(max)) / double(options_.temperature));
}

double Sampler::next_uniform() {
    return double(mix(mix(options_.seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u * (drawn_ + 1)) >> 11) * 0x1p-53;
}

int Sampler::choose(const Kernels& kernels, const float* logits, int vocabulary) {
    const float max = kernels.max(logits, vocabulary);
    if (!std::isfinite(max)) return -1;
    if (options_.temperature == 0) return argmax(logits, vocabulary, max);
    const bool top_k = options_.top_k > 0 && options_.top_k < vocabulary;
    if (!top_k && options_.top_p >= 1 && options_.min_p <= 0)
        return draw_from_all(kernels, logits, vocabulary, max, next_uniform());

    // Candidates in falling order, and the weight of the distribution that top-p cuts.
    double total = 0;
    if (top_k) {
        select_top(logits, vocabulary, options_.top_k);
        for (const Candidate& candidate : candidates_) total += weight(candidate.logit, max);
    } else {
        total = double(kernels.exp_sum(logits, vocabulary, max, 1 / options_.temperature));
        const float furthest = options_.min_p > 0 ? -std::log(options_.min_p) : std::numeric_limits<float>::infinity();
        for (float reach = std::min(kFirstReach, furthest);; reach = std::min(2 * reach, furthest)) {
            select(logits, vocabulary, max - reach * options_.temperature);
            double reached = 0;
            for (const Candidate& candidate : candidates_) reached += weight(candidate.logit, max);
            if (reach >= furthest || reached >= double(options_.top_p) * total || int(candidates_.size()) == vocabulary)
                break;
        }
        sort_candidates();
    }
    size_t kept = 0;
    double sum = 0;
    while (kept < candidates_.size() && (kept == 0 || sum < double(options_.top_p) * total)) {
        const double w = weight(candidates_[kept].logit, max);
        if (kept > 0 && w < double(options_.min_p)) break;
        sum += w;
        kept++;
    }
    double rest = next_uniform() * sum;
    for (size_t i = 0; i + 1 < kept; i++) {
        rest -= weight(candidates_[i].logit, max);
        if (rest < 0) return candidates_[i].token;
    }
    return candidates_[kept - 1].token;
}

// Inverse transform over the whole vocabulary: the chunk first, then the token in it.
int Sampler::draw_from_all(const Kernels& kernels, const float* logits, int vocabulary, float max,
                           double threshold) const {
    const float inverse = 1 / options_.temperature;
    std::vector<double> chunks;
    double total = 0;
    for (int begin = 0; begin < vocabulary; begin += kChunk)
        total += chunks.emplace_back(
            double(kernels.exp_sum(logits + begin, std::min(kChunk, vocabulary - begin), max, inverse)));
    double rest = threshold * total;
    size_t chunk = 0;
    while (chunk + 1 < chunks.size() && rest >= chunks[chunk]) rest -= chunks[chunk++];
    const int begin = int(chunk) * kChunk, end = std::min(vocabulary, begin + kChunk);
    int last = -1;
    for (int token = begin; token < end; token++) {
        const double w = weight(logits[token], max);
        if (w <= 0) continue;
        last = token;
        rest -= w;
        if (rest < 0) break;
    }
    return last >= 0 ? last : argmax(logits, vocabulary, max);
}

void Sampler::select(const float* logits, int vocabulary, float limit) {
    candidates_.clear();
    for (int token = 0; token < vocabulary; token++)
        if (logits[token] >= limit) candidates_.push_back({logits[token], token});
}

void Sampler::sort_candidates() {
    std::sort(candidates_.begin(), candidates_.end(), [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
    });
}

// The `count` largest logits, in falling order.
void Sampler::select_top(const float* logits, int vocabulary, int count) {
    const auto larger = [](const Candidate& a, const Candidate& b) {
        return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
    };
    candidates_.clear();
    for (int token = 0; token < vocabulary; token++) {
        if (int(candidates_.size()) < count) {
            candidates_.push_back({logits[token], token});
            std::push_heap(candidates_.begin(), candidates_.end(), larger);
        } else if (logits[token] > candidates_.front().logit) {
            std::pop_heap(candidates_.begin(), candidates_.end(), larger);
            candidates_.back() = {logits[token], token};
            std::push_heap(candidates_.begin(), candidates_.end(), larger);
        }
    }
    sort_candidates();
}

}  // namespace freehold
