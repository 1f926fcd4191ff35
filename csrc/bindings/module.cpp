#include "bindings/bindings.h"

NB_MODULE(_native, m) {
    m.doc() = "Freehold's native core.";
    freehold::bind_formats(m);
    freehold::bind_sampler(m);
    freehold::bind_executor(m);
}
