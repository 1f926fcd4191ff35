// Memory for the experts of a model that does not fit: slots for one expert's packed matrices each. Experts stay in
// the file; who needs one packs it into the slot of the expert that was not used for the longest time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "memory.h"
#include "tensor_bytes.h"

namespace freehold {

class ExpertCache {
  public:
    ExpertCache(size_t slot_bytes, int num_slots);

    // The number of the first of `count` experts, which this counts from now on.
    int add_experts(int count);

    // A turn is one use of some experts, whose slots are theirs until the next one begins.
    void begin_turn() { turn_++; }
    // The slot that holds the expert, or null; it stays there for this turn.
    uint8_t* find(int expert);
    // A slot for an expert that has none, or null: all are in use. Who claims it fills it before the turn ends.
    uint8_t* claim(int expert);
    // What was claimed could not be filled. Any thread may call this.
    void spoil(int expert) { slots_[size_t(slot_of_[size_t(expert)])].spoiled = true; }

    size_t slot_bytes() const { return slot_bytes_; }
    // The model's file, opened once for all.
    std::shared_ptr<const TensorBytes::File> file(const std::string& path);

    long hits() const { return hits_; }
    long misses() const { return misses_; }

  private:
    struct Slot {
        int expert = -1;
        long turn = -1;
        std::atomic<bool> spoiled{false};
        std::list<int>::iterator place;  // in `order_`
    };
    uint8_t* take(int slot);

    size_t slot_bytes_;
    Pages pages_;
    std::vector<Slot> slots_;
    std::vector<int> slot_of_;  // of each expert; -1: none
    std::list<int> order_;      // of slots: the first was not used for the longest time
    long turn_ = 0, hits_ = 0, misses_ = 0;
    std::unordered_map<std::string, std::shared_ptr<const TensorBytes::File>> files_;
};

}  // namespace freehold
