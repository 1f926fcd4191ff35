// Formats of weights, and the header of a GGUF file.
#include <algorithm>
#include <optional>
#include <stdexcept>

#include "bindings/bindings.h"
#include "formats/gguf.h"
#include "formats/published.h"
#include "formats/quantize.h"
#include "threads.h"

namespace freehold {

namespace {

size_t count_values(Format format, size_t bytes) {
    const FormatInfo& info = format_info(format);
    if (bytes % size_t(info.block_bytes)) throw std::invalid_argument("dequantize: the bytes are not whole blocks");
    return bytes / size_t(info.block_bytes) * size_t(info.block_elements);
}

nb::ndarray<nb::numpy, float, nb::ndim<1>> dequantize_array(const std::string& name, Bytes bytes) {
    const Format format = format_from_name(name.c_str());
    const size_t count = count_values(format, bytes.size());
    auto out = std::make_unique_for_overwrite<float[]>(count);
    dequantize(format, bytes.data(), out.get(), count);
    return to_array(std::move(out), count);
}

std::vector<float> dequantize_list(const std::string& name, Bytes bytes) {
    const Format format = format_from_name(name.c_str());
    std::vector<float> out(count_values(format, bytes.size()));
    dequantize(format, bytes.data(), out.data(), out.size());
    return out;
}

// Rows of `cols` floats as blocks of a format, shared out to threads. `importance`: one weight a column.
nb::ndarray<nb::numpy, uint8_t, nb::ndim<1>> quantize_array(const std::string& name, Floats values, size_t cols,
                                                            std::optional<Floats> importance, int threads) {
    const Format format = format_from_name(name.c_str());
    const FormatInfo& info = format_info(format);
    if (!can_quantize(format) || cols == 0 || cols % size_t(info.block_elements) || values.size() % cols ||
        (importance && importance->size() != cols) || threads < 1 || threads > 1024)
        throw std::invalid_argument("quantize: shape");
    const size_t rows = values.size() / cols;
    const size_t row_bytes = cols / size_t(info.block_elements) * size_t(info.block_bytes);
    auto out = std::make_unique_for_overwrite<uint8_t[]>(rows * row_bytes);
    const float* weights = importance ? importance->data() : nullptr;
    {
        nb::gil_scoped_release release;
        constexpr size_t kRows = 16;  // of an item
        ThreadPool pool(threads);
        pool.parallel_for(int((rows + kRows - 1) / kRows), [&](int item, int) {
            for (size_t r = size_t(item) * kRows; r < std::min(rows, (size_t(item) + 1) * kRows); r++)
                quantize(format, values.data() + r * cols, weights, cols, out.get() + r * row_bytes);
        });
    }
    return to_array(std::move(out), rows * row_bytes);
}

// Writes the nibbles of a matrix as a lab publishes them into rows of blocks of 32 columns.
void put_published_nibbles(const std::string& layout, Bytes codes, int rows, int cols, int header,
                           nb::ndarray<uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu> out) {
    const char* names[] = {"bytes", "rows", "gptq", "awq"};
    const auto* name = std::find(std::begin(names), std::end(names), layout);
    if (name == std::end(names)) throw std::invalid_argument("unknown layout " + layout);
    const auto kind = CodeLayout(name - std::begin(names));
    if (rows <= 0 || cols <= 0 || cols % 32 || header < 0 || (kind == CodeLayout::Awq && rows % 8) ||
        codes.size() != size_t(rows) * size_t(cols) / 2 ||
        out.size() != size_t(rows) * (size_t(cols) / 32) * size_t(header + 16))
        throw std::invalid_argument("put_nibbles: shape");
    nb::gil_scoped_release release;
    put_nibbles(kind, codes.data(), rows, cols, header, out.data());
}

nb::object to_python(const GgufValue& value) {
    return std::visit(
        [](const auto& v) -> nb::object {
            using T = std::decay_t<decltype(v)>;
            if constexpr (std::is_same_v<T, std::string_view>)
                return nb::str(v.data(), v.size());
            else if constexpr (std::is_same_v<T, GgufArray>) {
                nb::object list = nb::steal(PyList_New(Py_ssize_t(v.size())));
                for (size_t i = 0; i < v.size(); i++)
                    PyList_SET_ITEM(list.ptr(), Py_ssize_t(i), to_python(v[i]).release().ptr());
                return list;
            } else
                return nb::cast(v);
        },
        value.value);
}

// (version, metadata, [(name, shape, format, offset, bytes)]) of the file in `bytes`.
nb::tuple read_gguf(Bytes bytes) {
    const GgufHeader header = parse_gguf(bytes.data(), bytes.size());
    nb::dict metadata;
    for (const auto& [key, value] : header.metadata) metadata[nb::str(key.data(), key.size())] = to_python(value);
    nb::list tensors;
    for (const GgufTensor& t : header.tensors) {
        nb::list shape;
        for (uint64_t length : t.shape) shape.append(length);
        tensors.append(nb::make_tuple(nb::str(t.name.data(), t.name.size()), nb::tuple(shape),
                                      format_info(t.format).name, t.offset, t.bytes));
    }
    return nb::make_tuple(header.version, metadata, tensors);
}

}  // namespace

void bind_formats(nb::module_& m) {
    // The exceptions' Python classes, so that they arrive as the library's own.
    static PyObject* file_error = nb::module_::import_("freehold.errors").attr("ModelFileError").inc_ref().ptr();
    static PyObject* unsupported_error =
        nb::module_::import_("freehold.errors").attr("UnsupportedError").inc_ref().ptr();
    nb::register_exception_translator([](const std::exception_ptr& p, void*) {
        try {
            std::rethrow_exception(p);
        } catch (const GgufError& e) {
            PyErr_SetString(file_error, e.what());
        } catch (const GgufUnsupported& e) {
            PyErr_SetString(unsupported_error, e.what());
        }
    });
    m.def("read_gguf", &read_gguf, "bytes"_a);
    m.def("formats", [] {
        std::vector<std::string> names;
        for (int i = 0; i < kNumFormats; i++) names.push_back(format_info(Format(i)).name);
        return names;
    });
    m.def("quantize", &quantize_array, "format"_a, "values"_a, "cols"_a, "importance"_a.none() = nb::none(),
          "threads"_a = 1);
    m.def("put_nibbles", &put_published_nibbles, "layout"_a, "codes"_a, "rows"_a, "cols"_a, "header"_a, "out"_a);
    m.def(
        "block_of",
        [](const std::string& name) {
            const FormatInfo& info = format_info(format_from_name(name.c_str()));
            return std::make_pair(info.block_elements, info.block_bytes);
        },
        "format"_a);
    m.def("dequantize", &dequantize_array, "format"_a, "blocks"_a);
    m.def("dequantize_list", &dequantize_list, "format"_a, "blocks"_a);
}

}  // namespace freehold
