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

namespace freehold {

class TensorBytes {
  public:
    explicit TensorBytes(const uint8_t* data) : data_(data) {}
    TensorBytes(const std::string& path, size_t offset) : file_(std::make_shared<const File>(path)), offset_(offset) {}

    void read(size_t begin, size_t bytes, uint8_t* out) const {
        if (data_)
            std::memcpy(out, data_ + begin, bytes);
        else
            file_->read(offset_ + begin, bytes, out);
    }

  private:
    class File {
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

      private:
        std::string path_;
        int descriptor_;
    };

    const uint8_t* data_ = nullptr;
    std::shared_ptr<const File> file_;
    size_t offset_ = 0;
};

}  // namespace freehold
