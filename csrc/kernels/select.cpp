// Which instruction sets this machine has, by CPUID and what the operating system allows.
#include "kernels/kernels.h"

#ifdef __x86_64__
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace freehold {

extern const Kernels portable_kernels;

#ifdef __x86_64__
extern const Kernels avx2_kernels, avx512_kernels, amx_kernels, amx_emulated_kernels;

namespace {

bool has_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}

bool has_avx512() {
    return has_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512vnni");
}

// Linux gives the tile registers to a process that asks (arch_prctl ARCH_REQ_XCOMP_PERM for XTILEDATA).
bool has_amx() {
    unsigned a, b, c, d;
    asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
    const bool cpu = d >> 24 & 1 && d >> 25 & 1;
    return cpu && has_avx512() && syscall(SYS_arch_prctl, 0x1023, 18) == 0;
}

}  // namespace

std::vector<const Kernels*> supported_kernels() {
    std::vector<const Kernels*> kernels;
    if (has_amx()) kernels.push_back(&amx_kernels);
    if (has_avx512()) kernels.push_back(&avx512_kernels);
    if (has_avx2()) kernels.push_back(&avx2_kernels);
    kernels.push_back(&portable_kernels);
    if (has_avx512()) kernels.push_back(&amx_emulated_kernels);
    return kernels;
}
#else
std::vector<const Kernels*> supported_kernels() { return {&portable_kernels}; }
#endif

const Kernels* choose_kernels(const std::string& name) {
    for (const Kernels* kernels : supported_kernels())
        if (name.empty() || name == kernels->name) return kernels;
    return nullptr;
}

}  // namespace freehold
