#include "sampler.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

namespace freehold {
namespace {

constexpr int kBlock = 256;        // of the vocabulary
constexpr double kFirstReach = 4;  // how far below the maximum top-p looks at first, in units of temperature
constexpr double kReachGrowth = 1.5;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Candidate {
    float logit;
    int token;
    double weight;  // e^((logit - maximum) / temperature)
};

bool before(const Candidate& a, const Candidate& b) {
    return a.logit != b.logit ? a.logit > b.logit : a.token < b.token;
}

// What a call needs beside the request's own state; one for each thread, so that a request holds no vocabulary.
struct Scratch {
    std::vector<float> adjusted, block_max, order;
    std::vector<double> block_weight;
    std::vector<Candidate> candidates, partition;
};

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9u;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebu;
    return x ^ x >> 31;
}

// A distribution over the vocabulary: softmax(logits / temperature), with the maximum of each block of logits.
class View {
  public:
    View(const Kernels& kernels, Scratch& scratch, const float* logits, int vocabulary)
        : kernels_(kernels), scratch_(scratch), vocabulary_(vocabulary) {
        read(logits);
    }

    void read(const float* logits) {
        logits_ = logits;
        max_ = -kInfinity;
        scratch_.block_max.clear();
        for (int begin = 0; begin < vocabulary_; begin += kBlock) {
            scratch_.block_max.push_back(kernels_.max(logits + begin, block_end(begin) - begin));
            max_ = std::max(max_, scratch_.block_max.back());
        }
    }

    float max() const { return max_; }
    int vocabulary() const { return vocabulary_; }

    void set_temperature(float temperature) { temperature_ = temperature; }  // 1 at first

    double total_weight() const {
        const float inverse = std::min(1 / temperature_, std::numeric_limits<float>::max());
        double total = 0;
        scratch_.block_weight.clear();
        for (int begin = 0; begin < vocabulary_; begin += kBlock)
            total += scratch_.block_weight.emplace_back(
                double(kernels_.exp_sum(logits_ + begin, block_end(begin) - begin, max_, inverse)));
        return total;
    }

    int argmax() const {
        const auto& maxima = scratch_.block_max;
        int token = int(std::find(maxima.begin(), maxima.end(), max_) - maxima.begin()) * kBlock;
        while (logits_[token] != max_) token++;
        return token;
    }

    // Inverse transform over the whole vocabulary: the block first, then the token in it. `uniform` is in [0, 1).
    int draw(double uniform) const {
        double rest = uniform * total_weight();
        size_t block = 0;
        while (block + 1 < scratch_.block_weight.size() && rest >= scratch_.block_weight[block])
            rest -= scratch_.block_weight[block++];
        const int begin = int(block) * kBlock;
        int last = argmax();
        for (int token = begin; token < block_end(begin); token++) {
            const double w = weight(logits_[token]);
            if (w > 0) last = token;
            rest -= w;
            if (rest < 0) break;
        }
        return last;  // where rounding leaves a rest: the block's last possible token
    }

    // Tokens of at least `limit`, by id.
    std::vector<Candidate>& at_least(float limit) const {
        auto& candidates = scratch_.candidates;
        candidates.clear();
        for (int begin = 0; begin < vocabulary_; begin += kBlock) {
            if (scratch_.block_max[size_t(begin / kBlock)] < limit) continue;
            for (int token = begin; token < block_end(begin); token++)
                if (logits_[token] >= limit) candidates.push_back({logits_[token], token, weight(logits_[token])});
        }
        return candidates;
    }

    // The `count` likeliest tokens, by id; at most the vocabulary.
    std::vector<Candidate>& likeliest(int count) const {
        // As many blocks have a maximum of at least the count-th largest one: that many tokens are as large.
        float limit = -kInfinity;
        if (size_t(count) <= scratch_.block_max.size()) {
            auto& order = scratch_.order = scratch_.block_max;
            std::nth_element(order.begin(), order.begin() + (count - 1), order.end(), std::greater<>());
            limit = order[size_t(count - 1)];
        }
        auto& candidates = at_least(limit);
        if (size_t(count) >= candidates.size()) return candidates;
        auto& partition = scratch_.partition = candidates;
        std::nth_element(partition.begin(), partition.begin() + (count - 1), partition.end(), before);
        return keep_to(partition[size_t(count - 1)]);
    }

    // Keeps the fewest likeliest candidates whose weights together reach `mass`.
    void keep_nucleus(double mass) const {
        auto& partition = scratch_.partition = scratch_.candidates;
        auto first = partition.begin(), last = partition.end();  // the least likely one kept is among [first, last)
        while (last - first > 1) {
            const auto middle = first + (last - first) / 2;
            std::nth_element(first, middle, last, before);
            double upper = 0;
            for (auto it = first; it != middle; ++it) upper += it->weight;
            if (upper >= mass) {
                last = middle;
            } else {
                mass -= upper;
                first = middle;
            }
        }
        keep_to(*first);
    }

  private:
    int block_end(int begin) const { return std::min(vocabulary_, begin + kBlock); }

    double weight(float logit) const { return std::exp((double(logit) - double(max_)) / double(temperature_)); }

    std::vector<Candidate>& keep_to(const Candidate& least) const {
        std::erase_if(scratch_.candidates, [&](const Candidate& candidate) { return before(least, candidate); });
        return scratch_.candidates;
    }

    const Kernels& kernels_;
    Scratch& scratch_;
    const float* logits_ = nullptr;
    int vocabulary_;
    float max_ = -kInfinity, temperature_ = 1;
};

double total_weight(const std::vector<Candidate>& candidates) {
    double total = 0;
    for (const Candidate& candidate : candidates) total += candidate.weight;
    return total;
}

// The candidates that top-k, top-p and min-p leave, by id.
const std::vector<Candidate>& truncate(const View& view, const SamplerOptions& options) {
    const double temperature = options.temperature, top_p = options.top_p;
    const double furthest = options.min_p > 0 ? -std::log(double(options.min_p)) : kInfinity;
    const auto limit_at = [&](double reach) {  // tokens of weight 0 are never candidates
        return float(std::max(double(view.max()) - reach * temperature, -double(std::numeric_limits<float>::max())));
    };
    if (options.top_k > 0 && options.top_k < view.vocabulary()) {
        auto& candidates = view.likeliest(options.top_k);
        if (top_p < 1) view.keep_nucleus(top_p * total_weight(candidates));
        std::erase_if(candidates, [&](const Candidate& candidate) { return candidate.logit < limit_at(furthest); });
        return candidates;
    }
    if (top_p >= 1) return view.at_least(limit_at(furthest));
    // The nucleus is sought among tokens near the maximum, then further down. Tokens of less than their even share of
    // 1 - top_p cannot belong to it, and min-p may end it before.
    const double total = view.total_weight(), mass = top_p * total;
    const double last = std::min(furthest, -std::log((1 - top_p) * total / view.vocabulary()));
    for (double reach = kFirstReach;; reach *= kReachGrowth) {
        auto& candidates = view.at_least(limit_at(std::min(reach, last)));
        if (total_weight(candidates) >= mass) {
            view.keep_nucleus(mass);
            return candidates;
        }
        if (reach >= last) return candidates;
    }
}

int draw_from(const std::vector<Candidate>& candidates, double uniform) {
    double rest = uniform * total_weight(candidates);
    for (const Candidate& candidate : candidates) {
        rest -= candidate.weight;
        if (rest < 0) return candidate.token;
    }
    return candidates.back().token;  // rounding left a rest
}

void mask(float* logits, int vocabulary, const std::vector<uint32_t>& allowed) {
    for (int begin = 0; begin < vocabulary; begin += 32) {
        const uint32_t word = size_t(begin / 32) < allowed.size() ? allowed[size_t(begin / 32)] : 0;
        for (int token = begin; token < std::min(vocabulary, begin + 32) && word != ~uint32_t(0); token++)
            if (!(word >> (token - begin) & 1)) logits[token] = -kInfinity;
    }
}

}  // namespace

Sampler::Sampler(SamplerOptions options, std::vector<int> prompt)
    : options_(std::move(options)), prompt_(std::move(prompt)) {
    std::sort(prompt_.begin(), prompt_.end());
    prompt_.erase(std::unique(prompt_.begin(), prompt_.end()), prompt_.end());
    int smallest = prompt_.empty() ? 0 : prompt_.front();
    largest_token_ = prompt_.empty() ? -1 : prompt_.back();
    for (const auto& [token, bias] : options_.logit_bias) {
        smallest = std::min(smallest, token);
        largest_token_ = std::max(largest_token_, token);
    }
    if (smallest < 0) throw std::invalid_argument("sampler: token " + std::to_string(smallest) + " is negative");
}

void Sampler::check_vocabulary(int vocabulary) const {
    if (largest_token_ >= vocabulary)
        throw std::invalid_argument("sampler: token " + std::to_string(largest_token_) +
                                    " is outside the vocabulary of " + std::to_string(vocabulary));
}

Sample Sampler::sample(const Kernels& kernels, const float* logits, int vocabulary) {
    thread_local Scratch scratch;
    Sample sample{{-1, std::numeric_limits<float>::quiet_NaN()}, {}};
    if (vocabulary < 1) return sample;

    View view(kernels, scratch, logits, vocabulary);
    const double log_total = double(view.max()) + std::log(view.total_weight());
    if (!std::isfinite(log_total)) return sample;
    const auto logprob = [&](int token) { return TokenLogprob{token, float(double(logits[token]) - log_total)}; };
    if (options_.num_logprobs > 0) {
        auto& likeliest = view.likeliest(std::min(options_.num_logprobs, vocabulary));
        std::sort(likeliest.begin(), likeliest.end(), before);
        for (const Candidate& candidate : likeliest) sample.top.push_back(logprob(candidate.token));
    }

    if (changes_logits()) {
        scratch.adjusted.assign(logits, logits + vocabulary);
        adjust(scratch.adjusted.data(), vocabulary);
        allowed_.clear();
        view.read(scratch.adjusted.data());
        if (!std::isfinite(view.max())) return sample;
    }
    int token;
    if (options_.temperature == 0) {
        token = view.argmax();
    } else {
        view.set_temperature(options_.temperature);
        const bool truncated = options_.top_k > 0 || options_.top_p < 1 || options_.min_p > 0;
        token = truncated ? draw_from(truncate(view, options_), next_uniform()) : view.draw(next_uniform());
    }
    sample.chosen = logprob(token);
    reply_[token]++;
    drawn_++;
    return sample;
}

bool Sampler::changes_logits() const {
    return !allowed_.empty() || !options_.logit_bias.empty() || options_.repetition_penalty != 1 ||
           options_.presence_penalty != 0 || options_.frequency_penalty != 0;
}

void Sampler::adjust(float* logits, int vocabulary) const {
    if (!allowed_.empty()) mask(logits, vocabulary, allowed_);
    for (const auto& [token, bias] : options_.logit_bias) logits[token] += bias;
    const auto repeat = [&](int token) {
        float& logit = logits[token];
        logit = logit > 0 ? logit / options_.repetition_penalty : logit * options_.repetition_penalty;
    };
    if (options_.repetition_penalty != 1)
        for (int token : prompt_) repeat(token);
    for (const auto& [token, times] : reply_) {
        if (options_.repetition_penalty != 1 && !std::binary_search(prompt_.begin(), prompt_.end(), token))
            repeat(token);
        logits[token] -= options_.presence_penalty + options_.frequency_penalty * float(times);
    }
}

// In [0, 1), from the seed and the number of tokens drawn.
double Sampler::next_uniform() const {
    return double(mix(mix(options_.seed + 0x9e3779b97f4a7c15u) + 0x9e3779b97f4a7c15u * (drawn_ + 1)) >> 11) * 0x1p-53;
}

}  // namespace freehold
