// Mutated GGUF headers against the reader: no crash, no hang, no large allocation. Run it under sanitizers.
// Also a libFuzzer target: LLVMFuzzerTestOneInput.
#include <sys/resource.h>

#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "formats/gguf.h"

using Bytes = std::vector<uint8_t>;

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
    try {
        freehold::parse_gguf(data, size);
    } catch (const freehold::GgufError&) {
    } catch (const freehold::GgufUnsupported&) {
    }
    return 0;
}

namespace {

class Writer {
  public:
    template <class T>
    Writer& number(T value) {
        const auto* p = reinterpret_cast<const uint8_t*>(&value);
        bytes.insert(bytes.end(), p, p + sizeof value);
        return *this;
    }
    Writer& string(const std::string& text) {
        number<uint64_t>(text.size());
        bytes.insert(bytes.end(), text.begin(), text.end());
        return *this;
    }
    Bytes bytes;
};

// A small sound file: each kind of value, nested arrays, two tensors.
Bytes sound_file() {
    Writer w;
    w.bytes = {'G', 'G', 'U', 'F'};
    w.number<uint32_t>(3).number<uint64_t>(2).number<uint64_t>(6);
    w.string("general.architecture").number<uint32_t>(8).string("llama");
    w.string("general.alignment").number<uint32_t>(4).number<uint32_t>(32);
    w.string("a.float").number<uint32_t>(6).number<float>(1.5f);
    w.string("a.bool").number<uint32_t>(7).number<uint8_t>(1);
    w.string("a.strings")
        .number<uint32_t>(9)
        .number<uint32_t>(8)
        .number<uint64_t>(3)
        .string("a")
        .string("é")
        .string("");
    w.string("a.nested").number<uint32_t>(9).number<uint32_t>(9).number<uint64_t>(1);
    w.number<uint32_t>(5).number<uint64_t>(2).number<int32_t>(-1).number<int32_t>(7);
    w.string("x").number<uint32_t>(2).number<uint64_t>(32).number<uint64_t>(2).number<uint32_t>(8).number<uint64_t>(0);
    w.string("y").number<uint32_t>(1).number<uint64_t>(4).number<uint32_t>(0).number<uint64_t>(96);
    w.bytes.resize((w.bytes.size() + 31) / 32 * 32 + 96 + 16);
    return w.bytes;
}

void mutate(Bytes& bytes, std::mt19937& random) {
    const uint64_t interesting[] = {
        0, 1, 2, 0x7f, 0xff, 0x7fffffff, 0xffffffff, 0x7fffffffffffffff, 0xffffffffffffffff, 1ull << 32, 1ull << 40};
    for (int times = 1 + int(random() % 4); times; times--) {
        if (bytes.empty()) return;
        const size_t at = random() % bytes.size();
        switch (random() % 5) {
            case 0:
                bytes[at] ^= uint8_t(1 << random() % 8);
                break;
            case 1:
                bytes[at] = uint8_t(random());
                break;
            case 2:
                bytes.resize(at);
                break;
            case 3:
                bytes.insert(bytes.begin() + long(at), uint8_t(random()));
                break;
            case 4: {
                const uint64_t value = interesting[random() % std::size(interesting)];
                std::memcpy(bytes.data() + at, &value, std::min<size_t>(8, bytes.size() - at));
            }
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int runs = argc > 1 ? std::stoi(argv[1]) : 200000;
    const rlimit cpu{60, 60};  // a hang ends here
    setrlimit(RLIMIT_CPU, &cpu);
    const Bytes sound = sound_file();
    if (freehold::parse_gguf(sound.data(), sound.size()).tensors.size() != 2) return 1;
    std::mt19937 random(1);
    for (int run = 0; run < runs; run++) {
        Bytes bytes = sound;
        mutate(bytes, random);
        LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
    }
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    std::printf("%d mutated headers, peak memory %ld MB\n", runs, usage.ru_maxrss / 1024);
    return usage.ru_maxrss > 1 << 20 ? 1 : 0;
}
