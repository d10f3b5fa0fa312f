"""Mistakes that are planted in a kernel: ttsem names each, and finds none in the kernel as it is."""

import pytest
from ttsem.sanitize import KernelFault

from equifast import act, kernels, reference

from ..cases import assert_same, ids, rand

pytestmark = pytest.mark.sanitized

#: What stands in the kernel, what takes its place, and what ttsem calls the result.
MISTAKES = {
    "a load that begins an image too far": ("x + b * xb, e,", "x + b * xb + xb, e,", "oob_read"),
    "a store that begins a pixel too far": ("target = out + b", "target = out + 1 + b", "oob_write"),
    "all images stored in the place of the first": ("target = out + b * C * H * W", "target = out", "race"),
    "a store without its mask, by two lanes in one place": ("mask=mask)", "mask=None)", "poison"),
}


def run():
    """One launch of several program instances, whose tiles are larger than the images."""
    x, element = rand(3, 3, 5, 7), ids("C8", 3)
    return act(x, element, group="C8"), reference.act(x, element, group="C8")


@pytest.fixture
def plant():
    """A function that replaces a text in the source of `act`'s kernel, until the test ends."""
    kernels.load("act")
    from equifast.kernels.act import KERNEL

    function, source = KERNEL.function, KERNEL.function.src

    def replace(right: str, wrong: str) -> None:
        assert source.count(right) == 1
        function._unsafe_update_src(source.replace(right, wrong))

    yield replace
    function._unsafe_update_src(source)


def test_the_kernel_is_right():
    assert_same(*run())


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_caught(plant, mistake):
    right, wrong, kind = MISTAKES[mistake]
    plant(right, wrong)
    with pytest.raises(KernelFault) as caught:
        run()
    assert (caught.value.fault.kind, caught.value.fault.kernel) == (kind, "_act_kernel")
