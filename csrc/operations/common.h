// What the operations share: rows of buffers, and a row's place in the KV cache.
#pragma once

#include <algorithm>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

#include "operations.h"
#include "program.h"

namespace freehold {

inline constexpr int kRowsPerItem = 8;

inline const Buffer& buffer_of(Context& context, int index) { return *context.buffers.at(size_t(index)); }

inline void check_width(Program& program, int buffer, int width, const char* what) {
    if (buffer_of(program.context(), buffer).width != width)
        throw std::invalid_argument(std::string(what) + ": width " +
                                    std::to_string(buffer_of(program.context(), buffer).width) + ", expected " +
                                    std::to_string(width));
}

// An operation that treats each row by itself.
class RowOperation : public Operation {
  public:
    explicit RowOperation(int out) : out_(out) {}
    int plan(Context& context) override {
        rows_ = context.rows_of(buffer_of(context, out_));
        return (rows_ + kRowsPerItem - 1) / kRowsPerItem;
    }
    void run(Context& context, const Turn& turn) override {
        const int end = std::min(rows_, (turn.item + 1) * kRowsPerItem);
        for (int r = turn.item * kRowsPerItem; r < end; r++) row(context, r, buffer_of(context, out_).row(r));
    }
    virtual void row(Context&, int index, float* out) = 0;

  private:
    int out_, rows_ = 0;
};

// A row operation from a function (context, row, out).
template <class Function>
class Rowwise : public RowOperation {
  public:
    Rowwise(const char* name, int out, Function function)
        : RowOperation(out), name_(name), function_(std::move(function)) {}
    std::string name() const override { return name_; }
    void row(Context& context, int index, float* out) override { function_(context, index, out); }

  private:
    const char* name_;
    Function function_;
};

template <class Function>
void add_rowwise(Program& program, const char* name, int out, Function function) {
    program.add(std::make_unique<Rowwise<Function>>(name, out, std::move(function)));
}

inline void turn(Context& context, const RopeOptions& rope, int row, float* heads, int num_heads, int head_dim) {
    const float* angles = buffer_of(context, rope.angles).row(row);
    context.kernels->rope({heads, num_heads, head_dim, rope.first, rope.rotary_dim, rope.interleaved, angles,
                           angles + rope.rotary_dim / 2});
}

// Calls f(row, head block of the row's page, slot) for rows row0..row1.
template <class Function>
void for_slots(Context& context, int row0, int row1, int layer, int head, Function f) {
    for (const StepRequest& request : context.step.requests) {
        const int begin = std::max(row0, request.first_row), end = std::min(row1, request.first_row + request.num_rows);
        for (int row = begin; row < end; row++) {
            const int position = context.step.positions[row];
            f(row, context.kv_head(request.pages[size_t(position / kKvBlock)], layer, head), position % kKvBlock);
        }
    }
}

inline void write_keys(Context& context, int row0, int row1, int layer, int head, const Buffer& k) {
    for_slots(context, row0, row1, layer, head, [&](int row, uint8_t* block, int slot) {
        context.kernels->write_key(context.kv, block, slot, k.row(row) + size_t(head) * context.kv.head_dim);
    });
}

inline void write_values(Context& context, int row0, int row1, int layer, int head, const Buffer& v) {
    for_slots(context, row0, row1, layer, head, [&](int row, uint8_t* block, int slot) {
        context.kernels->write_value(context.kv, block, slot, v.row(row) + size_t(head) * context.kv.head_dim);
    });
}

// Fetches what write_keys will write: a key lies spread over as many lines as it has channels, or pairs of them.
inline void fetch_keys(Context& context, int row0, int row1, int layer, int head) {
    const KvLayout& kv = context.kv;
    const int together = kv.is_integer() ? 2 : 1, bytes = together * kv.element_bytes();
    for_slots(context, row0, row1, layer, head, [&](int, uint8_t* block, int slot) {
        for (int line = 0; line < kv.head_dim / together; line++)
            __builtin_prefetch(block + (line * kKvBlock + slot) * bytes, 1, 2);
    });
}

// As fetch_keys; the values of one token, or of two, lie side by side.
inline void fetch_values(Context& context, int row0, int row1, int layer, int head) {
    const KvLayout& kv = context.kv;
    const int together = kv.is_integer() ? 2 : 1, bytes = together * kv.padded_dim() * kv.element_bytes();
    for_slots(context, row0, row1, layer, head, [&](int, uint8_t* block, int slot) {
        for (int at = 0; at < bytes; at += 64)
            __builtin_prefetch(block + kv.keys_bytes() + slot / together * bytes + at, 1, 2);
        if (kv.is_integer()) __builtin_prefetch(kv.value_scales(block) + slot, 1, 2);
    });
}

}  // namespace freehold
