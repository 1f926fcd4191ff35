// The bytes of a tensor, in memory or in a file. Out of a file they are read and not mapped, so that one which is cut
// short while it is in use gives an error; a mapping would end the process.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <string>
#include <utility>

namespace freehold {

class TensorBytes {
  public:
    class File;

    explicit TensorBytes(const uint8_t* data) : data_(data) {}
    TensorBytes(std::shared_ptr<const File> file, size_t offset) : file_(std::move(file)), offset_(offset) {}

    void read(size_t begin, size_t bytes, uint8_t* out) const;
    // Lets the system fetch `bytes` from a file in the background; they will be wanted soon.
    void announce(size_t bytes) const;

  private:
    const uint8_t* data_ = nullptr;
    std::shared_ptr<const File> file_;
    size_t offset_ = 0;
};

class TensorBytes::File {
  public:
    explicit File(const std::string& path) : path_(path), descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {
        if (descriptor_ < 0) throw std::runtime_error(path + ": " + std::strerror(errno));
    }
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() { close(descriptor_); }

    void read(size_t begin, size_t bytes, uint8_t* out) const {
        while (bytes) {
            const ssize_t got = pread(descriptor_, out, bytes, off_t(begin));
            if (got < 0 && errno == EINTR) continue;
            if (got < 0) throw std::runtime_error(path_ + ": " + std::strerror(errno));
            if (got == 0) throw std::runtime_error(path_ + " was cut short while in use");
            begin += size_t(got), bytes -= size_t(got), out += got;
        }
    }
    void announce(size_t begin, size_t bytes) const {
        posix_fadvise(descriptor_, off_t(begin), off_t(bytes), POSIX_FADV_WILLNEED);
    }

  private:
    std::string path_;
    int descriptor_;
};

inline void TensorBytes::read(size_t begin, size_t bytes, uint8_t* out) const {
    if (data_)
        std::memcpy(out, data_ + begin, bytes);
    else
        file_->read(offset_ + begin, bytes, out);
}

inline void TensorBytes::announce(size_t bytes) const {
    if (file_) file_->announce(offset_, bytes);
}

}  // namespace freehold
