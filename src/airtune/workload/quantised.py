"""Bytes of a frozen matrix that is held quantised, as bitsandbytes lays it out.

    nf4   n/2 + n/64 + 4 (n/64)/256 + 4     of n numbers, each quotient rounded up
    int8  n + 4 rows

nf4 has four bits a number and the largest magnitude of every 64 numbers; of those magnitudes the
mean is taken off (4 bytes), and what is left is held in 8 bits with a fp32 scale for every 256 of
them (double quantisation; Dettmers et al., QLoRA, arXiv 2305.14314, section 3). int8 has the
largest magnitude of every row in fp32 (Dettmers et al., LLM.int8(), arXiv 2208.07339, section 2.1).
Blocks run through the matrix row by row. Biases are not quantised, and nothing outside the blocks.
"""

NF4, INT8 = "nf4", "int8"
QUANTISED = (NF4, INT8)
"""Dtypes of a base whose matrices inside the blocks are quantised."""
COMPUTE_DTYPE = "bf16"
"""What products of a quantised base run in, and what is not quantised is held in, unless chosen."""
BLOCK, SCALES_PER_BLOCK = 64, 256
SCALE_BYTES = 4
"""fp32."""


def matrix_bytes(dtype: str, rows: int, columns: int) -> int:
    """The module's formula for a matrix (rows, columns) [byte]."""
    numbers = rows * columns
    if dtype == INT8:
        return numbers + SCALE_BYTES * rows
    blocks = -(-numbers // BLOCK)
    scales = -(-blocks // SCALES_PER_BLOCK)
    return -(-numbers // 2) + blocks + SCALE_BYTES * (scales + 1)


def table_bytes(dtype: str) -> int:
    """The 256 fp32 values that 8-bit scales of nf4 stand for, once for all matrices [byte]."""
    return 256 * SCALE_BYTES if dtype == NF4 else 0
