// A model's forward as a flat list of operations on planned buffers, run with no Python between two operations.
//
// Every thread walks the whole list. The items of an operation are claimed one by one, and the next operation begins
// when all items are done, not when all threads have arrived: a thread that has lost its core holds up at most the
// item that it had claimed.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "cache.h"
#include "kernels/kernels.h"
#include "memory.h"
#include "threads.h"

namespace freehold {

inline constexpr int kHeadRows = 64;    // of a head, which a thread prepares for itself
inline constexpr int kPrivateRows = 4;  // up to here each thread prepares rows for itself: cheaper than a barrier

// The rows of a step that belong to one request: consecutive positions, and the blocks of its whole sequence.
struct StepRequest {
    int first_row, num_rows, position;
    std::vector<int32_t> blocks;
    std::vector<int32_t> pages;  // of these blocks, one for each kKvBlock positions
};

// The flat inputs of one step.
struct Step {
    std::vector<int32_t> tokens, positions;  // T
    std::vector<StepRequest> requests;
    std::vector<int32_t> logit_rows;

    int num_rows() const { return int(tokens.size()); }
};

// Values of an operation for all rows of a step, or for its logit rows: float32 (or int32 positions) [rows][stride].
struct Buffer {
    bool logit_rows;
    int width;
    size_t stride;  // width rounded up to 16
    Pages pages;

    float* row(int index) const { return reinterpret_cast<float*>(pages.data()) + size_t(index) * stride; }
    // A row of positions, for values that are such.
    int32_t* positions(int index) const { return reinterpret_cast<int32_t*>(pages.data()) + size_t(index) * stride; }
};

// Memory for prepared rows of up to `cols` columns; rows are padded to 16, which AMX tiles read.
class PreparedMemory {
  public:
    PreparedMemory() = default;
    // `has_values`, `has_codes`: without what no matrix will read.
    PreparedMemory(int rows, int cols, bool has_values = true, bool has_codes = true) {
        const size_t blocks = blocks_of(cols);
        value_stride_ = blocks * 32;
        pages_ = Pages(bytes(rows, cols, has_values, has_codes), false);
        uint8_t* at = pages_.data();
        const auto take = [&](size_t bytes) { return std::exchange(at, at + padded(rows) * bytes); };
        if (has_values) values = reinterpret_cast<float*>(take(value_stride_ * 4));
        if (!has_codes) return;
        rows_.codes = reinterpret_cast<int8_t*>(take(blocks * 32));
        rows_.scales = reinterpret_cast<float*>(take(blocks * 4));
        rows_.scaled_sums = reinterpret_cast<float*>(take(blocks * 4));
        rows_.negative_sums32 = reinterpret_cast<int32_t*>(take(blocks * 4));
        rows_.negative_sums16 = reinterpret_cast<int32_t*>(take(blocks * 8));
    }
    float* values = nullptr;
    size_t value_stride() const { return value_stride_; }
    static size_t bytes(int rows, int cols, bool has_values, bool has_codes) {
        return padded(rows) * blocks_of(cols) * ((has_values ? 32 * 4 : 0) + (has_codes ? 32 + 4 + 4 + 4 + 8 : 0));
    }
    // All of them, their values as well.
    PreparedRows rows_with_values(int cols) const {
        PreparedRows all = rows(cols);
        all.values = values;
        all.value_stride = value_stride_;
        return all;
    }
    PreparedRows rows(int cols) const {
        PreparedRows rows = rows_;
        rows.cols = cols;
        return rows;
    }

  private:
    static size_t padded(int rows) { return size_t(rows + 15) / 16 * 16; }
    static size_t blocks_of(int cols) { return size_t(cols + 31) / 32; }

    Pages pages_;
    PreparedRows rows_;
    size_t value_stride_ = 0;
};

// What the experts of a program ask for at most: experts of a row, columns of their inputs and of their inner rows, and
// in which form these are read.
struct ExpertWidths {
    int top_k = 0, inputs = 0, inner = 0;
    bool input_values = false, input_codes = false, inner_values = false, inner_codes = false;

    size_t bytes(int max_rows) const {
        return PreparedMemory::bytes(max_rows * top_k, inputs, input_values, input_codes) +
               PreparedMemory::bytes(max_rows * top_k, inner, inner_values, inner_codes);
    }
    bool operator==(const ExpertWidths&) const = default;
};

struct ProgramLimits {
    int max_rows, max_logit_rows;
};

// What operations share: the kernels, limits, KV pool, the step at hand and memory that lives for one operation.
struct Context {
    const Kernels* kernels;
    int num_threads;
    ProgramLimits limits;
    CacheLayout cache;
    KvLayout kv;  // that of `cache`
    int num_blocks;
    Pages cache_pages;   // [block][page of the block][bytes of a page]
    Pages cache_states;  // float32 [block][state_floats]
    std::vector<std::unique_ptr<Buffer>> buffers;

    // Memory that lives for one operation.
    PreparedMemory shared_rows;                // more than kPrivateRows: prepared once, read by all threads
    std::vector<PreparedMemory> private_rows;  // few rows: each thread its own
    std::vector<PreparedMemory> head_rows;     // kHeadRows of one head: each thread its own
    std::vector<Pages> scratch;                // of each thread
    std::vector<float> states;                 // attention states of spans
    PreparedMemory expert_inputs;              // rows grouped by expert
    PreparedMemory expert_inner;               // what their gates and ups give
    std::vector<Pages> expert_scratch;         // of each thread
    ExpertWidths expert_widths;
    size_t expert_scratch_bytes = 0;
    int max_columns = 0, max_head_columns = 0;
    size_t scratch_bytes = 0;

    Step step;

    // Makes room for matrices of `cols` inputs.
    void reserve_columns(int cols);
    void reserve_head_rows(int cols);
    void reserve_scratch(size_t bytes);  // of each thread
    // Makes room for experts.
    void reserve_experts(ExpertWidths widths, size_t scratch_bytes);

    uint8_t* kv_head(int page, int layer, int head) const {
        return cache_pages.data() + size_t(page) * cache.page_bytes() + kv.head_offset(layer, head);
    }
    // The rows that `rows` keeps of a page's tokens.
    uint8_t* cached_rows(int page, const RowCache& rows) const {
        return cache_pages.data() + size_t(page) * cache.page_bytes() + rows.offset;
    }
    float* state(int block, size_t offset) const {
        return reinterpret_cast<float*>(cache_states.data()) + size_t(block) * cache.state_floats + offset;
    }
    int rows_of(const Buffer& buffer) const {
        return buffer.logit_rows ? int(step.logit_rows.size()) : step.num_rows();
    }
};

// An item of an operation in the hands of a thread.
struct Turn {
    int item;
    int next;  // the item that this thread takes after this one, so that its weights can be fetched meanwhile; or -1
    int thread;
};

class Operation {
  public:
    virtual ~Operation() = default;
    virtual std::string name() const = 0;
    // Called once before each run, by one thread: how many items there are in this step.
    virtual int plan(Context&) = 0;
    // Called by a thread before its first item of a run.
    virtual void enter(Context&, int /*thread*/) {}
    virtual void run(Context&, const Turn& turn) = 0;
};

struct OperationTime {
    std::string name;
    long calls;
    double seconds;
};

class Program {
  public:
    Program(const Kernels& kernels, std::shared_ptr<ThreadPool> pool, ProgramLimits limits, CacheLayout cache,
            int num_blocks);

    int add_buffer(int width, bool logit_rows);
    void add(std::unique_ptr<Operation> operation) { operations_.push_back(std::move(operation)); }
    void set_output(int buffer) { output_ = buffer; }

    // Runs one step; throws std::invalid_argument when an index is out of its range, before anything is computed, and
    // what an operation throws (a file that cannot be read) once all have ended.
    void run(Step step);
    const float* logits(int row) const { return context_.buffers.at(output_)->row(row); }
    int num_logit_rows() const { return int(context_.step.logit_rows.size()); }
    int output_width() const { return context_.buffers.at(output_)->width; }
    void copy_block(int source, int target);

    Context& context() { return context_; }
    ThreadPool& pool() { return *pool_; }

    void set_profiling(bool on);
    std::vector<OperationTime> profile() const;

  private:
    struct alignas(64) Progress {
        std::atomic<int> next{0};
        alignas(64) std::atomic<int> done{0};
        int total = 0;
        double seconds = 0;  // of thread 0
        long calls = 0;
    };

    void check(const Step& step) const;
    void work(int thread);
    void run_item(Operation& operation, const Turn& turn);
    void run_items(Operation& operation, Progress& progress, int thread);

    std::shared_ptr<ThreadPool> pool_;
    Context context_;
    std::vector<std::unique_ptr<Operation>> operations_;
    std::vector<Progress> progress_;
    std::mutex error_mutex_;
    std::exception_ptr error_;  // the first of a run
    int output_ = -1;
    bool profiling_ = false;
};

}  // namespace freehold
