#include "expert_cache.h"

namespace freehold {

ExpertCache::ExpertCache(size_t slot_bytes, int num_slots)
    : slot_bytes_((slot_bytes + 63) / 64 * 64), pages_(slot_bytes_ * size_t(num_slots)), slots_(size_t(num_slots)) {
    for (int slot = 0; slot < num_slots; slot++) slots_[size_t(slot)].place = order_.insert(order_.end(), slot);
}

int ExpertCache::add_experts(int count) {
    const int first = int(slot_of_.size());
    slot_of_.resize(slot_of_.size() + size_t(count), -1);
    return first;
}

uint8_t* ExpertCache::find(int expert) {
    const int slot = slot_of_[size_t(expert)];
    if (slot < 0 || slots_[size_t(slot)].spoiled) {
        misses_++;
        return nullptr;
    }
    hits_++;
    return take(slot);
}

uint8_t* ExpertCache::claim(int expert) {
    const int own = slot_of_[size_t(expert)];  // it is spoiled
    const int slot = own >= 0 ? own : order_.empty() ? -1 : order_.front();
    if (slot < 0 || slots_[size_t(slot)].turn == turn_) return nullptr;
    Slot& claimed = slots_[size_t(slot)];
    if (claimed.expert >= 0) slot_of_[size_t(claimed.expert)] = -1;
    claimed.expert = expert;
    claimed.spoiled = false;
    slot_of_[size_t(expert)] = slot;
    return take(slot);
}

uint8_t* ExpertCache::take(int slot) {
    slots_[size_t(slot)].turn = turn_;
    order_.splice(order_.end(), order_, slots_[size_t(slot)].place);
    return pages_.data() + size_t(slot) * slot_bytes_;
}

std::shared_ptr<const TensorBytes::File> ExpertCache::file(const std::string& path) {
    auto& file = files_[path];
    if (!file) file = std::make_shared<const TensorBytes::File>(path);
    return file;
}

}  // namespace freehold
