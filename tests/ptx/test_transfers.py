"""Loads and stores move bytes, whatever memory they are in, and widen those that registers have room for."""

from __future__ import annotations

import random

import pytest
import torch

from .executor import decoded, library, run
from .program import LETTERS, Known, table
from .syntax import entry

REGISTERS = {16: "%rs", 32: "%r", 64: "%rd"}
LANES = 32

TRANSFERS = [
    pytest.param(opcode, known, id=f"{opcode} {known.written}")
    for opcode, all_known in table(library()).items()
    for known in all_known
    if opcode.startswith(("ld.", "st."))
]

#: Lines that give each lane its places: %rd10 in the argument, %rd11 and %rd12 in two tensors, %r10 in shared memory.
PLACES = """
mov.u32 %r0, %tid.x;
mov.b64 %rd0, moves_param;
mul.wide.u32 %rd1, %r0, {stride};
add.s64 %rd10, %rd0, %rd1;
add.s64 %rd10, %rd10, 16;
ld.param.u64 %rd11, [%rd0];
add.s64 %rd11, %rd11, %rd1;
mul.wide.u32 %rd2, %r0, {out_stride};
ld.param.u64 %rd12, [%rd0+8];
add.s64 %rd12, %rd12, %rd2;
mul.lo.s32 %r10, %r0, {stride};
add.s32 %r10, %r10, {shared};
"""


def copied(source: str, to: str, count: int) -> list[str]:
    """Lines that copy bytes from one place to another, such as ("global", "%rd11"), four at a time."""
    (source_space, source_place), (to_space, to_place) = source, to
    lines = []
    for i in range(0, count, 4):
        lines += [f"ld.{source_space}.u32 %r20, [{source_place}+{i}];", f"st.{to_space}.u32 [{to_place}+{i}], %r20;"]
    return lines


def random_bytes(count: int, generator: random.Random) -> torch.Tensor:
    return torch.tensor([generator.getrandbits(8) for _ in range(count)], dtype=torch.uint8).view(LANES, -1)


@pytest.mark.parametrize(("opcode", "known"), TRANSFERS)
def test_a_transfer_moves_bytes(opcode, known: Known):
    what, space, *_, kind = opcode.split(".")
    registers = [LETTERS[c] for c in known.written if c in LETTERS]
    registers.remove(32 if space == "shared" else 64)  # the address
    width, count, size = registers[0], len(registers), int(kind[1:]) // 8
    stride, out_stride = -(-size * count // 4) * 4, count * width // 8
    names = [f"{REGISTERS[width]}{30 + i}" for i in range(count)]
    group = names[0] if count == 1 else f"{{{', '.join(names)}}}"
    generator = random.Random(opcode)
    data = random_bytes(LANES * stride, generator)
    outside = random_bytes(LANES * out_stride, generator)  # what registers are loaded from or stored to
    place = {"param": "%rd10", "global": "%rd11", "shared": "%r10"}[space]

    lines = PLACES.format(stride=stride, out_stride=out_stride, shared=library().ptx_shared_address()).split("\n")
    if space == "shared":
        lines += copied(("global", "%rd11"), ("shared", place), stride)
    each = [(name, f"[%rd12+{i * width // 8}]") for i, name in enumerate(names)]
    if what == "ld":
        lines += [f"ld.{space}.{opcode.split('.', 2)[2]} {group}, [{place}];"]
        lines += [f"st.global.u{width} {there}, {name};" for name, there in each]
        read = data[:, : size * count].view(LANES, count, size)
        sign = read[..., -1:] >> 7 if kind[0] == "s" else torch.zeros_like(read[..., -1:])
        expected = torch.cat((read, (sign * 255).expand(-1, -1, width // 8 - size)), -1).view(LANES, -1)
        found = outside
    else:
        lines += [f"ld.global.u{width} {name}, {there};" for name, there in each]
        lines += [f"{opcode} [{place}], {group};"]
        if space == "shared":
            lines += copied(("shared", place), ("global", "%rd11"), stride)
        kept = outside.view(LANES, count, -1)[..., :size].reshape(LANES, -1)
        expected = torch.cat((kept, data[:, size * count :]), -1)
        found = data
    text = [".entry moves(", f".param .align 8 .b8 moves_param[{16 + data.numel()}]", ")", "{"]
    text += [".reg .pred %p<9>;", ".reg .b16 %rs<99>;", ".reg .b32 %r<99>;", ".reg .b64 %rd<99>;", *lines, "ret;", "}"]
    args = torch.cat((torch.tensor([data.data_ptr(), outside.data_ptr()]).view(torch.uint8), data.flatten()))
    run(decoded(entry(1, text)), 1, LANES, LANES * stride, args.data_ptr(), args.nbytes)
    assert torch.equal(found, expected)
