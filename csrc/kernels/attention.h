// Grouped-query attention over paged keys and values, softmax span by span.
//
// How keys, values, queries and weights are multiplied is said by FloatKv and IntegerKv:
// - prepare_query(task, q, out): a query, as score_block reads it.
// - score_block<rows>(keys, later, task, q, out): scores of queries ([rows][kQueryStride]) and the 32 keys of a block.
//   They go to out[r][0..32), strides of kSpan. Of a streamed task this block's values and the keys of `later` (or
//   null) are fetched meanwhile.
// - Weights(task, first block, keys, memory), of a span: prepare(row, softmax, hidden, visible), then
//   weigh_rows<rows>(row, softmax, out, stride), the sums of values.
//
// Each span of 256 keys has its own maximum and sum; spans are combined in the order of their positions. Every figure
// is therefore the same whether a query comes alone or in a tile, and whether spans are taken by one thread or several.
// Threading: a task is one tile of queries for one KV head, over some spans.
// Speed: 73 billion multiply-adds a second of a core of Zen 4 with AVX-512 in 16-bit integers, for 512 tokens and heads
// of 128 (products alone: 117); 42 in float32 (58).
#pragma once

#include <cstring>

#include "kernels/attention_float.h"
#include "kernels/attention_integers.h"
#include "kernels/kernels.h"
#include "kernels/softmax.h"

namespace freehold {

template <class S, class Kv>
struct AttentionKernels : SpanSoftmax<S> {
    using SpanSoftmax<S>::softmax, SpanSoftmax<S>::clear, SpanSoftmax<S>::combine;
    static constexpr int R = S::kScoreRows;  // queries of a group; a lone token's heads are fewer, in smaller tiles
    static constexpr int kFewRows = S::kValueRows;
    static_assert(R % kFewRows == 0 && R % S::kManyValueRows == 0 && R <= kMaxScoreRows);

    static auto score_of(int queries) {
        if (queries <= kFewRows) return Kv::template score_block<kFewRows>;
        if constexpr (R > 2 * kFewRows)
            if (queries <= 2 * kFewRows) return Kv::template score_block<2 * kFewRows>;
        return Kv::template score_block<R>;
    }

    static void divide(const AttentionTask& t, int query, const float* state) {
        float* out = t.out + size_t(query / t.group) * t.out_stride + size_t(query % t.group) * t.layout->head_dim;
        float keep = 1, sum = state[1];
        if (t.sinks) {
            const float sink = t.sinks[query % t.group], max = larger(state[0], sink);
            keep = exp_nonpositive1<S>(state[0] - max);
            sum = sum * keep + exp_nonpositive1<S>(sink - max);
        }
        for (int d = 0; d < t.layout->head_dim; d++) out[d] = state[kStateValues + d] * keep / sum;
    }

    // The first key that the query at `position` sees.
    static int first_key(const AttentionTask& t, int position) {
        if (t.window) return position + 1 - t.window;
        return t.chunk ? position / t.chunk * t.chunk : 0;
    }

    // Up to R queries from `first` on, over the task's spans, into their states.
    static void attend_group(const AttentionTask& t, int first, int count, float* states, float* scratch) {
        const int dim = t.layout->padded_dim();
        const size_t stride = attention_state_floats(dim);
        float* q = scratch;                    // [R][kQueryStride]; behind the last whatever was there
        float* scores = q + R * kQueryStride;  // [R][kSpan]
        float* values = scores + R * kSpan;    // [R][stride]
        float* weight_memory = values + R * stride;
        const auto score = score_of(count);
        const bool many = count > 2 * kFewRows;
        const int step = many ? S::kManyValueRows : kFewRows;
        for (int r = 0; r < count; r++) {
            const int query = first + r;
            Kv::prepare_query(t,
                              t.q + size_t(query / t.group) * t.q_stride + size_t(query % t.group) * t.layout->head_dim,
                              q + r * kQueryStride);
            clear(states + r * stride, dim);
        }
        const int last_position = t.position + (first + count - 1) / t.group;
        for (int span = t.span0; span < t.span1 && span * kSpan <= last_position; span++) {
            const int start = span * kSpan, first_block = start / kKvBlock;
            if (start + kSpan <= first_key(t, t.position + first / t.group)) continue;
            const int keys = last_position + 1 - start < kSpan ? last_position + 1 - start : kSpan;
            for (int k = 0; k < keys; k += kKvBlock) {
                const bool more = k + kKvBlock < keys;
                const uint8_t* later = more ? t.head_block(first_block + k / kKvBlock + 1) : t.next_keys;
                score(t.head_block(first_block + k / kKvBlock), later, t, q, scores + k);
            }
            SoftmaxSum heads[R];
            typename Kv::Weights weights(t, first_block, keys, weight_memory);
            for (int r = 0; r < count; r++) {
                float* p = scores + r * kSpan;
                const int position = t.position + (first + r) / t.group, behind = position + 1 - start;
                const int visible = behind < keys ? behind : keys, hidden = first_key(t, position) - start;
                const bool some = visible > 0 && hidden < visible;
                heads[r] = some ? softmax_seen(p, hidden, visible, keys) : SoftmaxSum{-__builtin_inff(), 0};
                if (!some) std::memset(p, 0, kSpan * sizeof(float));
                weights.prepare(r, p, some ? hidden : 0, some ? visible : 0);
            }
            for (int r = count; r % step; r++) {
                std::memset(scores + r * kSpan, 0, kSpan * sizeof(float));
                weights.prepare(r, scores + r * kSpan, 0, 0);
            }
            for (int r = 0; r < count; r += step) {
                float *p = scores + r * kSpan, *sums = values + r * stride;
                if (many)
                    weights.template weigh_rows<S::kManyValueRows>(r, p, sums, stride);
                else
                    weights.template weigh_rows<kFewRows>(r, p, sums, stride);
            }
            for (int r = 0; r < count; r++)
                if (heads[r].max != -__builtin_inff() || heads[r].sum != 0)
                    combine(states + r * stride, heads[r], values + r * stride, dim);
        }
    }

    // Softmax of keys hidden..visible; the other keys of the tile, which its other queries see, weigh nothing.
    static SoftmaxSum softmax_seen(float* scores, int hidden, int visible, int keys) {
        for (int k = 0; k < hidden; k++) scores[k] = -__builtin_inff();
        const SoftmaxSum head = softmax(scores, visible);
        const int done = (visible + kKvBlock - 1) / kKvBlock * kKvBlock;
        if (done < keys) std::memset(scores + done, 0, size_t(keys - done) * sizeof(float));
        return head;
    }

    static void attend(const AttentionTask& t) {
        const int queries = t.num_rows * t.group;
        const size_t stride = attention_state_floats(t.layout->padded_dim());
        float* local = t.scratch;  // [R][stride], when the states do not outlive the task
        float* scratch = t.scratch + R * stride;
        for (int first = 0; first < queries; first += R) {
            const int count = queries - first < R ? queries - first : R;
            float* states = t.states ? t.states + first * stride : local;
            attend_group(t, first, count, states, scratch);
            if (!t.states)
                for (int r = 0; r < count; r++) divide(t, first + r, states + r * stride);
        }
    }

    static void combine_states(const AttentionTask& t, const float* states, int num_spans) {
        const int dim = t.layout->padded_dim(), queries = t.num_rows * t.group;
        const size_t stride = attention_state_floats(dim);
        for (int query = 0; query < queries; query++) {
            clear(t.scratch, dim);
            for (int span = 0; span < num_spans; span++) {
                const float* state = states + (size_t(span) * queries + query) * stride;
                if (state[0] != -__builtin_inff() || state[1] != 0)
                    combine(t.scratch, {state[0], state[1]}, state + kStateValues, dim);
            }
            divide(t, query, t.scratch);
        }
    }
};

// Picks the format's instance.
template <class S>
struct AttentionDispatch {
    template <KvFormat format>
    using Floats = AttentionKernels<S, FloatKv<S, format>>;
    template <class Code>
    using Integers = AttentionKernels<S, IntegerKv<S, Code>>;

    static void attend(const AttentionTask& t) {
        switch (t.layout->format) {
            case KvFormat::Int16:
                return Integers<int16_t>::attend(t);
            case KvFormat::BF16:
                return Floats<KvFormat::BF16>::attend(t);
            case KvFormat::Int8:
                return Integers<int8_t>::attend(t);
            case KvFormat::F32:
                return Floats<KvFormat::F32>::attend(t);
        }
    }
    static void combine_states(const AttentionTask& t, const float* states, int num_spans) {
        Integers<int16_t>::combine_states(t, states, num_spans);
    }
};

}  // namespace freehold
