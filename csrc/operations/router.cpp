#include "operations/router.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>

namespace freehold {
namespace {

constexpr float kNever = -__builtin_inff();

// The first of the largest values that are not `taken`; a NaN is larger than none.
template <class Taken>
int largest(const float* values, int count, Taken taken) {
    int best = -1;
    for (int i = 0; i < count; i++)
        if (!taken(i) && (best < 0 || values[i] > values[best])) best = i;
    return best;
}

}  // namespace

Router::Router(RouterOptions options, int num_experts) : options_(std::move(options)), num_experts_(num_experts) {
    const RouterOptions& o = options_;
    const bool groups = o.num_groups > 0 && num_experts % o.num_groups == 0 && o.top_groups > 0 &&
                        o.top_groups <= o.num_groups && (!o.best_two || num_experts / o.num_groups > 1);
    if (!groups || o.top_k < 1 || o.top_k > num_experts / o.num_groups * o.top_groups)
        throw std::invalid_argument("experts: cannot choose " + std::to_string(o.top_k) + " of " +
                                    std::to_string(num_experts) + " experts");
    if (!o.correction.empty() && int(o.correction.size()) != num_experts)
        throw std::invalid_argument("experts: length of the correction");
}

void Router::choose(const Kernels& kernels, const float* logits, float* scratch, int* chosen, float* weights) const {
    float *scores = scratch, *ranked = scratch + num_experts_;
    (options_.sigmoid ? kernels.sigmoid : kernels.softmax)(logits, scores, num_experts_);
    for (int e = 0; e < num_experts_; e++)
        ranked[e] = options_.correction.empty() ? scores[e] : scores[e] + options_.correction[size_t(e)];
    if (options_.num_groups > 1) keep_best_groups(ranked, ranked + num_experts_);
    const int top_k = options_.top_k;
    for (int i = 0; i < top_k; i++)
        chosen[i] =
            largest(ranked, num_experts_, [&](int e) { return std::find(chosen, chosen + i, e) != chosen + i; });
    std::sort(chosen, chosen + top_k);
    float sum = 0;
    for (int i = 0; i < top_k; i++) sum += weights[i] = scores[chosen[i]];
    const float divisor = options_.normalize ? (sum < options_.least_sum ? options_.least_sum : sum) : 1.0f;
    for (int i = 0; i < top_k; i++) weights[i] = weights[i] / divisor * options_.scale;
}

// Experts of the other groups are ranked last.
void Router::keep_best_groups(float* ranked, float* scratch) const {
    const int groups = options_.num_groups, size = num_experts_ / groups;
    float *best = scratch, *kept = scratch + groups;
    for (int g = 0; g < groups; g++) {
        const float* group = ranked + g * size;
        const int first = largest(group, size, [](int) { return false; });
        best[g] = group[first];
        if (options_.best_two) best[g] += group[largest(group, size, [&](int e) { return e == first; })];
        kept[g] = 0;
    }
    for (int i = 0; i < options_.top_groups; i++) kept[largest(best, groups, [&](int g) { return kept[g] != 0; })] = 1;
    for (int g = 0; g < groups; g++)
        if (kept[g] == 0) std::fill_n(ranked + g * size, size, kNever);
}

}  // namespace freehold
