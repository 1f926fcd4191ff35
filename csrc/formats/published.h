// Four-bit weights as labs publish them, laid out in our rows of blocks: no value changes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace freehold {

// Where the code of (row, column) stands; rows are outputs.
enum class CodeLayout : uint8_t {
    Bytes,  // MXFP4 of gpt-oss: [row][column / 2], the even column in the low half
    Rows,   // compressed-tensors: uint32 [row][column / 8], column c in bits 4 (c % 8)
    Gptq,   // uint32 [column / 8][row], column c in bits 4 (c % 8)
    Awq,    // uint32 [column][row / 8], rows 0, 2, 4, 6, 1, 3, 5, 7 from the low bits up
};

// The nibbles of 32 columns: column i in the low half of byte i, column i + 16 in the high half, after `header` bytes.
// out: [rows][cols / 32][header + 16]; the headers are left as they are. `cols` is a multiple of 32; of Awq, `rows`
// of 8.
void put_nibbles(CodeLayout layout, const uint8_t* codes, int rows, int cols, int header, uint8_t* out);

}  // namespace freehold
