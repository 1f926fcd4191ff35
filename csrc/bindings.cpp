// The one binding file: it converts and forwards; arithmetic lives elsewhere.
#include <nanobind/nanobind.h>

namespace nb = nanobind;

NB_MODULE(_native, m) { m.doc() = "Freehold's native core."; }
