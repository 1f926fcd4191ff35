// What the files of this folder share. They convert and forward; arithmetic lives elsewhere.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <string>
#include <vector>

#include "kernels/kernels.h"
#include "program.h"
#include "sampler.h"

namespace freehold {

namespace nb = nanobind;
using namespace nb::literals;

using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

void bind_formats(nb::module_& m);
void bind_sampler(nb::module_& m);
void bind_executor(nb::module_& m);

// The kernels of an instruction set by its name, of the best one for an empty name.
const Kernels& kernels_of(const std::string& isa);

// Of each sampler the draws from its logit rows of the last run: one row, and one for each of its drafts as long as
// these are what is drawn. The samplers are shared out to the pool's threads.
nb::list sample_rows(Program& program, const std::vector<Sampler*>& samplers,
                     const std::vector<std::vector<int>>& drafts);

// A numpy array that owns its values.
template <typename T, typename... Sizes>
nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(Sizes)>> to_array(std::unique_ptr<T[]> values, Sizes... shape) {
    T* data = values.release();
    nb::capsule owner(data, [](void* p) noexcept { delete[] static_cast<T*>(p); });
    return nb::ndarray<nb::numpy, T, nb::ndim<sizeof...(Sizes)>>(data, {size_t(shape)...}, owner);
}

}  // namespace freehold
