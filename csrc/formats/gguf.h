// Reads the header of a GGUF file (versions 2 and 3, little-endian) from memory; no I/O, no copies of large data.
// Reference: ggml/docs/gguf.md. Every size, count and offset is checked against the file's length before it is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "formats/blocks.h"

namespace freehold {

// A damaged or malicious file: what and where, in one line.
struct GgufError : std::runtime_error {
    using std::runtime_error::runtime_error;
};
// A sound file that holds something which is not supported here.
struct GgufUnsupported : std::runtime_error {
    using std::runtime_error::runtime_error;
};

struct GgufValue;
using GgufArray = std::vector<GgufValue>;

// Strings point into the file. Numbers are widened.
struct GgufValue {
    std::variant<uint64_t, int64_t, double, bool, std::string_view, GgufArray> value;
};

struct GgufTensor {
    std::string_view name;
    std::vector<uint64_t> shape;  // row-major: outputs, inputs
    Format format;
    uint64_t offset, bytes;  // from the start of the file
};

struct GgufHeader {
    uint32_t version;
    std::vector<std::pair<std::string_view, GgufValue>> metadata;
    std::vector<GgufTensor> tensors;
};

// Throws GgufError or GgufUnsupported.
GgufHeader parse_gguf(const uint8_t* data, size_t size);

}  // namespace freehold
