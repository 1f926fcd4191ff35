#include "formats/published.h"

#include <cstring>

namespace freehold {
namespace {

constexpr int kColumns = 32;

uint32_t word_at(const uint8_t* p) {
    uint32_t word;
    std::memcpy(&word, p, 4);
    return word;
}

// The 32 codes of a block by `code(i)` into its 16 bytes.
template <class Code>
void put_block(uint8_t* out, Code code) {
    for (int i = 0; i < kColumns / 2; i++) out[i] = uint8_t(code(i) | code(i + kColumns / 2) << 4);
}

}  // namespace

void put_nibbles(CodeLayout layout, const uint8_t* codes, int rows, int cols, int header, uint8_t* out) {
    const size_t blocks = size_t(cols) / kColumns, stride = size_t(header) + kColumns / 2;
    const size_t words_of_rows = size_t(rows) / 8;
    for (size_t b = 0; b < blocks; b++)
        for (size_t r = 0; r < size_t(rows); r++) {
            uint8_t* block = out + (r * blocks + b) * stride + header;
            switch (layout) {
                case CodeLayout::Bytes:
                case CodeLayout::Rows: {  // the same bytes, since words are little-endian
                    const uint8_t* p = codes + (r * blocks + b) * (kColumns / 2);
                    put_block(block, [&](int i) { return p[i / 2] >> 4 * (i % 2) & 15; });
                    break;
                }
                case CodeLayout::Gptq: {
                    const uint8_t* p = codes + (b * (kColumns / 8) * size_t(rows) + r) * 4;
                    uint32_t words[kColumns / 8];
                    for (int w = 0; w < kColumns / 8; w++) words[w] = word_at(p + size_t(w) * size_t(rows) * 4);
                    put_block(block, [&](int i) { return words[i / 8] >> 4 * (i % 8) & 15; });
                    break;
                }
                case CodeLayout::Awq: {
                    constexpr int kPlace[8] = {0, 4, 1, 5, 2, 6, 3, 7};  // of row r % 8
                    const uint8_t* p = codes + (b * kColumns * words_of_rows + r / 8) * 4;
                    const int shift = 4 * kPlace[r % 8];
                    put_block(block, [&](int i) { return word_at(p + size_t(i) * words_of_rows * 4) >> shift & 15; });
                    break;
                }
            }
        }
}

}  // namespace freehold
