#include "program.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <stdexcept>

namespace freehold {
namespace {

constexpr int kManyItems = 8;  // for each thread

}  // namespace

Program::Program(const Kernels& kernels, std::shared_ptr<ThreadPool> pool, ProgramLimits limits, CacheLayout cache,
                 int num_blocks)
    : pool_(std::move(pool)),
      context_{.kernels = &kernels,
               .num_threads = pool_->size(),
               .limits = limits,
               .cache = cache,
               .kv = cache.kv,
               .num_blocks = num_blocks,
               .cache_pages = Pages(cache.page_bytes() * size_t(cache.num_pages) * size_t(num_blocks)),
               .cache_states = Pages(cache.state_floats * sizeof(float) * size_t(num_blocks)),
               .buffers = {},
               .shared_rows = {},
               .private_rows = {},
               .head_rows = {},
               .scratch = {},
               .states = {},
               .expert_inputs = {},
               .expert_inner = {},
               .expert_scratch = {},
               .expert_widths = {},
               .step = {}} {
    if (cache.kv.padded_dim() > kMaxHeadDim)
        throw std::invalid_argument("head size over " + std::to_string(kMaxHeadDim));
    context_.reserve_columns(kBlock);
}

void Context::reserve_columns(int cols) {
    if (cols <= max_columns) return;
    max_columns = cols;
    const size_t linear = linear_scratch_bytes((cols + kBlock - 1) / kBlock * kBlock);
    const size_t attention = attention_scratch_floats(kv.padded_dim()) * sizeof(float);
    shared_rows = PreparedMemory(limits.max_rows, cols);
    private_rows.clear();
    for (int thread = 0; thread < num_threads; thread++) private_rows.emplace_back(kPrivateRows, cols);
    reserve_scratch(std::max(linear, attention));
}

void Context::reserve_head_rows(int cols) {
    if (cols <= max_head_columns) return;
    max_head_columns = cols;
    head_rows.clear();
    for (int thread = 0; thread < num_threads; thread++) head_rows.emplace_back(kHeadRows, cols);
}

void Context::reserve_scratch(size_t bytes) {
    if (bytes <= scratch_bytes) return;
    scratch_bytes = bytes;
    scratch.clear();
    for (int thread = 0; thread < num_threads; thread++) scratch.emplace_back(bytes, false);
}

void Context::reserve_experts(ExpertWidths widths, size_t scratch_bytes) {
    const ExpertWidths& had = expert_widths;
    widths = {std::max(widths.top_k, had.top_k),     std::max(widths.inputs, had.inputs),
              std::max(widths.inner, had.inner),     widths.input_values || had.input_values,
              widths.input_codes || had.input_codes, widths.inner_values || had.inner_values,
              widths.inner_codes || had.inner_codes};
    if (widths != had) {
        const int rows = limits.max_rows * widths.top_k;
        expert_inputs = PreparedMemory(rows, widths.inputs, widths.input_values, widths.input_codes);
        expert_inner = PreparedMemory(rows, widths.inner, widths.inner_values, widths.inner_codes);
        expert_widths = widths;
    }
    if (scratch_bytes <= expert_scratch_bytes) return;
    expert_scratch.clear();
    for (int thread = 0; thread < num_threads; thread++) expert_scratch.emplace_back(scratch_bytes, false);
    expert_scratch_bytes = scratch_bytes;
}

int Program::add_buffer(int width, bool logit_rows) {
    const size_t stride = (size_t(width) + 15) / 16 * 16;
    const int rows = logit_rows ? context_.limits.max_logit_rows : context_.limits.max_rows;
    context_.buffers.push_back(
        std::make_unique<Buffer>(logit_rows, width, stride, Pages(stride * rows * sizeof(float), false)));
    return int(context_.buffers.size()) - 1;
}

void Program::check(const Step& step) const {
    const auto require = [](bool holds, const char* what) {
        if (!holds) throw std::invalid_argument(what);
    };
    require(step.num_rows() > 0 && step.num_rows() <= context_.limits.max_rows, "step: number of rows");
    require(step.positions.size() == step.tokens.size(), "step: tokens and positions differ in length");
    require(int(step.logit_rows.size()) <= context_.limits.max_logit_rows, "step: too many logit rows");
    for (int row : step.logit_rows) require(row >= 0 && row < step.num_rows(), "step: logit row out of range");
    int next_row = 0;
    for (const StepRequest& request : step.requests) {
        require(request.first_row == next_row && request.num_rows > 0, "step: rows of a request");
        next_row += request.num_rows;
        require(next_row <= step.num_rows(), "step: rows of a request");
        for (int i = 0; i < request.num_rows; i++)
            require(step.positions[request.first_row + i] == request.position + i,
                    "step: positions are not consecutive");
        const size_t tokens = request.blocks.size() * size_t(context_.cache.num_pages) * kKvBlock;
        require(request.position >= 0 && size_t(request.position + request.num_rows) <= tokens,
                "step: block table too short");
        for (int block : request.blocks) require(block >= 0 && block < context_.num_blocks, "step: block out of range");
    }
    require(next_row == step.num_rows(), "step: rows without a request");
}

void Program::run(Step step) {
    check(step);
    const int num_pages = context_.cache.num_pages;
    for (StepRequest& request : step.requests) {
        request.pages.clear();
        for (int block : request.blocks)
            for (int page = 0; page < num_pages; page++) request.pages.push_back(block * num_pages + page);
    }
    context_.step = std::move(step);
    if (progress_.size() != operations_.size()) progress_ = std::vector<Progress>(operations_.size());
    for (size_t i = 0; i < operations_.size(); i++) {
        progress_[i].next.store(0, std::memory_order_relaxed);
        progress_[i].done.store(0, std::memory_order_relaxed);
        progress_[i].total = operations_[i]->plan(context_);
    }
    pool_->run([this](int thread) { work(thread); });
    if (error_) std::rethrow_exception(std::exchange(error_, nullptr));
}

void Program::work(int thread) {
    using Clock = std::chrono::steady_clock;
    const bool timed = profiling_ && thread == 0;
    for (size_t i = 0; i < operations_.size(); i++) {
        Progress& progress = progress_[i];
        const auto start = timed ? Clock::now() : Clock::time_point();
        run_items(*operations_[i], progress, thread);
        for (Backoff backoff; progress.done.load(std::memory_order_acquire) < progress.total;) backoff.pause();
        if (!timed) continue;
        progress.seconds += std::chrono::duration<double>(Clock::now() - start).count();
        progress.calls++;
    }
}

// Where items are many and small, each thread claims one ahead and fetches its weights in good time: one core then
// draws twice the bandwidth. Where they are few, claiming ahead would leave another thread idle.
void Program::run_items(Operation& operation, Progress& progress, int thread) {
    const auto claim = [&] {
        const int item = progress.next.fetch_add(1, std::memory_order_relaxed);
        return item < progress.total ? item : -1;
    };
    const bool ahead = progress.total >= kManyItems * context_.num_threads;
    int item = claim();
    if (item >= 0) operation.enter(context_, thread);
    while (item >= 0) {
        const int next = ahead ? claim() : -1;
        run_item(operation, {item, next, thread});
        progress.done.fetch_add(1, std::memory_order_release);
        item = ahead ? next : claim();
    }
}

void Program::run_item(Operation& operation, const Turn& turn) {
    try {
        operation.run(context_, turn);
    } catch (...) {
        const std::lock_guard lock(error_mutex_);
        if (!error_) error_ = std::current_exception();
    }
}

void Program::copy_block(int source, int target) {
    const int blocks = context_.num_blocks;
    if (source < 0 || source >= blocks || target < 0 || target >= blocks)
        throw std::invalid_argument("block out of range");
    const auto copy = [&](const Pages& pool, size_t bytes) {
        if (bytes) std::memcpy(pool.data() + size_t(target) * bytes, pool.data() + size_t(source) * bytes, bytes);
    };
    copy(context_.cache_pages, context_.cache.page_bytes() * size_t(context_.cache.num_pages));
    copy(context_.cache_states, context_.cache.state_floats * sizeof(float));
}

void Program::set_profiling(bool on) {
    profiling_ = on;
    progress_ = std::vector<Progress>(operations_.size());
}

std::vector<OperationTime> Program::profile() const {
    std::vector<OperationTime> times;
    for (size_t i = 0; i < progress_.size(); i++)
        times.push_back({operations_[i]->name(), progress_[i].calls, progress_[i].seconds});
    return times;
}

}  // namespace freehold
