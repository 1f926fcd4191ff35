#include "formats/gguf.h"

#include <algorithm>
#include <cstring>
#include <unordered_set>

namespace freehold {
namespace {

enum GgufType : uint32_t { U8, I8, U16, I16, U32, I32, F32, Bool, String, Array, U64, I64, F64, kNumTypes };

constexpr uint64_t kTypeBytes[kNumTypes] = {1, 1, 2, 2, 4, 4, 4, 1, 8, 12, 8, 8, 8};  // of the smallest value
constexpr int kMaxNesting = 4;
constexpr uint64_t kMaxItems = 1 << 23;  // of all arrays: a vocabulary has 2^18; bounds what a bad file makes us take
constexpr uint64_t kMaxNameBytes = 1024, kMaxElements = uint64_t(1) << 40;

// ggml's numbers of the tensor types that we run.
constexpr std::pair<uint32_t, Format> kTensorTypes[] = {
    {0, Format::F32},     {1, Format::F16},     {2, Format::Q4_0},  {3, Format::Q4_1},
    {6, Format::Q5_0},    {7, Format::Q5_1},    {8, Format::Q8_0},  {10, Format::Q2_K},
    {11, Format::Q3_K},   {12, Format::Q4_K},   {13, Format::Q5_K}, {14, Format::Q6_K},
    {20, Format::IQ4_NL}, {23, Format::IQ4_XS}, {30, Format::BF16}, {39, Format::MXFP4},
};
constexpr uint32_t kNumGgmlTypes = 41;

std::string quoted(std::string_view name) {
    std::string text(name.substr(0, 80));
    for (char& c : text)
        if (static_cast<unsigned char>(c) < ' ' || c == 0x7f) c = '?';  // an error is one line
    return "'" + text + "'";
}

bool is_utf8(std::string_view text) {
    const auto* p = reinterpret_cast<const uint8_t*>(text.data());
    const auto* end = p + text.size();
    while (p < end) {
        if (*p < 0x80) {
            p++;
            continue;
        }
        const int extra = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : 1;
        if (*p < 0xc2 || *p > 0xf4 || end - p <= extra) return false;
        const uint8_t second_min = *p == 0xe0 ? 0xa0 : *p == 0xf0 ? 0x90 : 0x80;  // no overlong forms,
        const uint8_t second_max = *p == 0xed   ? 0x9f
                                   : *p == 0xf4 ? 0x8f
                                                : 0xbf;  // no surrogates, nothing past U+10FFFF
        if (p[1] < second_min || p[1] > second_max) return false;
        for (int i = 2; i <= extra; i++)
            if ((p[i] & 0xc0) != 0x80) return false;
        p += extra + 1;
    }
    return true;
}

class Reader {
  public:
    Reader(const uint8_t* data, size_t size) : data_(data), size_(size) {}

    size_t position() const { return position_; }
    uint64_t remaining() const { return size_ - position_; }

    void require(uint64_t bytes, const std::string& what) const {
        if (bytes > remaining())
            throw GgufError(what + ": needs " + std::to_string(bytes) + " bytes at offset " +
                            std::to_string(position_) + ", the file has " + std::to_string(remaining()) + " left");
    }

    template <class T>
    T number(const std::string& what) {
        require(sizeof(T), what);
        T value;
        std::memcpy(&value, data_ + position_, sizeof(T));
        position_ += sizeof(T);
        return value;
    }

    std::string_view string(const std::string& what) {
        const auto length = number<uint64_t>(what);
        require(length, what);
        const std::string_view text(reinterpret_cast<const char*>(data_ + position_), length);
        if (!is_utf8(text)) throw GgufError(what + ": not valid UTF-8 at offset " + std::to_string(position_));
        position_ += length;
        return text;
    }

    // A count of things of at least `least_bytes` each: more than the file can hold is refused before memory is taken.
    uint64_t count(uint64_t least_bytes, const std::string& what) {
        const auto n = number<uint64_t>(what);
        if (n > remaining() / least_bytes)
            throw GgufError(what + ": " + std::to_string(n) + " are declared, the file has room for at most " +
                            std::to_string(remaining() / least_bytes));
        return n;
    }

    GgufValue value(uint32_t type, const std::string& what, int depth = 0) {
        switch (type) {
            case U8:
                return {uint64_t(number<uint8_t>(what))};
            case I8:
                return {int64_t(number<int8_t>(what))};
            case U16:
                return {uint64_t(number<uint16_t>(what))};
            case I16:
                return {int64_t(number<int16_t>(what))};
            case U32:
                return {uint64_t(number<uint32_t>(what))};
            case I32:
                return {int64_t(number<int32_t>(what))};
            case F32:
                return {double(number<float>(what))};
            case U64:
                return {number<uint64_t>(what)};
            case I64:
                return {number<int64_t>(what)};
            case F64:
                return {number<double>(what)};
            case Bool: {
                const auto byte = number<uint8_t>(what);
                if (byte > 1) throw GgufError(what + ": expected a boolean 0 or 1, got " + std::to_string(byte));
                return {byte == 1};
            }
            case String:
                return {string(what)};
            case Array:
                return array(what, depth + 1);
        }
        throw GgufError(what + ": unknown value type " + std::to_string(type));
    }

  private:
    GgufValue array(const std::string& what, int depth) {
        if (depth > kMaxNesting) throw GgufError(what + ": arrays nested deeper than " + std::to_string(kMaxNesting));
        const auto type = number<uint32_t>(what);
        if (type >= kNumTypes) throw GgufError(what + ": unknown value type " + std::to_string(type));
        const uint64_t n = count(kTypeBytes[type], what);
        if ((num_items_ += n) > kMaxItems)
            throw GgufError(what + ": arrays of more than " + std::to_string(kMaxItems) + " items in all");
        GgufArray items;
        items.reserve(n);
        for (uint64_t i = 0; i < n; i++) items.push_back(value(type, what, depth));
        return {std::move(items)};
    }

    const uint8_t* data_;
    size_t size_, position_ = 0;
    uint64_t num_items_ = 0;  // of all arrays
};

void read_metadata(Reader& in, uint64_t count, GgufHeader& header) {
    std::unordered_set<std::string_view> seen;
    for (uint64_t i = 0; i < count; i++) {
        const std::string_view key = in.string("metadata key " + std::to_string(i));
        const std::string what = "metadata " + quoted(key);
        if (key.empty() || key.size() > 65535)
            throw GgufError("metadata key " + std::to_string(i) + ": " + std::to_string(key.size()) + " bytes long");
        if (!seen.insert(key).second) throw GgufError(what + ": given twice");
        const auto type = in.number<uint32_t>(what);
        header.metadata.emplace_back(key, in.value(type, what));
    }
}

Format tensor_format(uint32_t type, const std::string& what) {
    for (const auto& [number, format] : kTensorTypes)
        if (number == type) return format;
    if (type < kNumGgmlTypes)
        throw GgufUnsupported(what + ": tensor type " + std::to_string(type) + " is not supported");
    throw GgufError(what + ": unknown tensor type " + std::to_string(type));
}

GgufTensor read_tensor(Reader& in, uint64_t index) {
    GgufTensor tensor;
    tensor.name = in.string("name of tensor " + std::to_string(index));
    const std::string what = "tensor " + quoted(tensor.name);
    if (tensor.name.empty() || tensor.name.size() > kMaxNameBytes)
        throw GgufError(what + ": name of " + std::to_string(tensor.name.size()) + " bytes");
    const auto dims = in.number<uint32_t>(what);
    if (dims < 1 || dims > 4) throw GgufError(what + ": expected 1 to 4 dimensions, got " + std::to_string(dims));
    uint64_t elements = 1;
    for (uint32_t d = 0; d < dims; d++) {
        const auto length = in.number<uint64_t>(what);
        if (length == 0 || length > kMaxElements / elements)
            throw GgufError(what + ": dimension of length " + std::to_string(length));
        elements *= length;
        tensor.shape.insert(tensor.shape.begin(), length);
    }
    tensor.format = tensor_format(in.number<uint32_t>(what), what);
    tensor.offset = in.number<uint64_t>(what);
    const FormatInfo& info = format_info(tensor.format);
    if (tensor.shape.back() % uint64_t(info.block_elements))
        throw GgufError(what + ": rows of " + std::to_string(tensor.shape.back()) + " are not whole blocks of " +
                        std::to_string(info.block_elements));
    tensor.bytes = elements / uint64_t(info.block_elements) * uint64_t(info.block_bytes);
    return tensor;
}

uint64_t alignment_of(const GgufHeader& header) {
    for (const auto& [key, value] : header.metadata) {
        if (key != "general.alignment") continue;
        const auto* number = std::get_if<uint64_t>(&value.value);
        if (!number || *number < 8 || *number > 1 << 20 || *number & (*number - 1))
            throw GgufError("general.alignment: expected a power of two from 8 to 1048576");
        return *number;
    }
    return 32;
}

// Offsets in the file count from the aligned end of the header; tensors may not overlap or pass the end.
void place_tensors(GgufHeader& header, size_t header_end, size_t size) {
    const uint64_t alignment = alignment_of(header);
    const uint64_t data_start = (header_end + alignment - 1) / alignment * alignment;
    std::unordered_set<std::string_view> names;
    std::vector<const GgufTensor*> in_order;
    for (GgufTensor& tensor : header.tensors) {
        const std::string what = "tensor " + quoted(tensor.name);
        if (!names.insert(tensor.name).second) throw GgufError(what + ": given twice");
        if (tensor.offset % alignment)
            throw GgufError(what + ": offset " + std::to_string(tensor.offset) + " is not a multiple of " +
                            std::to_string(alignment));
        if (data_start > size || tensor.offset > size - data_start || tensor.bytes > size - data_start - tensor.offset)
            throw GgufError(what + ": needs " + std::to_string(tensor.bytes) + " bytes at offset " +
                            std::to_string(tensor.offset) + " of the data, the file has " +
                            std::to_string(size - std::min<uint64_t>(size, data_start)) + " (truncated?)");
        tensor.offset += data_start;
        in_order.push_back(&tensor);
    }
    std::sort(in_order.begin(), in_order.end(), [](const auto* a, const auto* b) { return a->offset < b->offset; });
    for (size_t i = 1; i < in_order.size(); i++)
        if (in_order[i]->offset < in_order[i - 1]->offset + in_order[i - 1]->bytes)
            throw GgufError("tensor " + quoted(in_order[i]->name) + ": overlaps tensor " +
                            quoted(in_order[i - 1]->name));
}

}  // namespace

GgufHeader parse_gguf(const uint8_t* data, size_t size) {
    Reader in(data, size);
    if (size < 4 || std::memcmp(data, "GGUF", 4) != 0)
        throw GgufError("not a GGUF file: it does not begin with 'GGUF'");
    in.number<uint32_t>("magic");
    GgufHeader header{in.number<uint32_t>("version"), {}, {}};
    if (header.version == 0x02000000 || header.version == 0x03000000)
        throw GgufUnsupported("a big-endian GGUF file: not supported");
    if (header.version != 2 && header.version != 3)
        throw GgufUnsupported("GGUF version " + std::to_string(header.version) + ": expected 2 or 3");
    const uint64_t num_tensors = in.count(8 + 4 + 8 + 4 + 8, "number of tensors");
    const uint64_t num_metadata = in.count(8 + 4 + 1, "number of metadata entries");
    read_metadata(in, num_metadata, header);
    for (uint64_t i = 0; i < num_tensors; i++) header.tensors.push_back(read_tensor(in, i));
    place_tensors(header, in.position(), size);
    return header;
}

}  // namespace freehold
