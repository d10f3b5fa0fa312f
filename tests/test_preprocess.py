"""`nn.CropResize` commutes with the group, and `check_preprocess` tells what does."""

import pytest
import torch
import torch.nn.functional as F

from equifast import as_group, check_preprocess, reference
from equifast.nn import Canonicalizer, ConvNetwork, CropResize

from .cases import DTYPES, assert_same, exact_elements

SIZES = [(20, 20), (21, 21), (24, 40), (24, 41), (17, 33), (5, 3)]
CROPS = [None, 0.8, 0.5, 1.0, 0.33, "square"]


def act(x, element, group):
    return reference.act(x, torch.full((x.shape[0],), element), group=group)


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_a_crop_commutes_to_the_last_bit(size, crop):
    x, cut = torch.rand(2, 3, *size), CropResize(crop)
    for h in exact_elements("D4", size):
        assert_same(cut(act(x, h, "D4")), act(cut(x), h, "D4"))
    # A frame that is itself turned, as a camera would have it.
    assert_same(cut(x.rot90(1, (2, 3))), cut(x).rot90(1, (2, 3)))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_how_much_a_crop_keeps(size, crop):
    kept = CropResize(crop)(torch.rand(1, 1, *size)).shape[2:]
    wanted = [min(size)] * 2 if crop == "square" else [n * (crop or 1) for n in size]
    for side, n, least in zip(kept, size, wanted, strict=True):
        assert (n - side) % 2 == 0 and least - 1e-6 <= side < least + 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("resize", [16, (16, 16), 48], ids=str)
@pytest.mark.parametrize("crop", [None, 0.8, "square"])
def test_a_resize_is_that_of_pytorch_and_commutes(crop, resize, dtype):
    x = torch.rand(2, 3, 31, 31).to(dtype)
    shrink = CropResize(crop, resize)
    out = shrink(x)
    size = (resize, resize) if isinstance(resize, int) else resize
    expected = F.interpolate(CropResize(crop)(x).double(), size, mode="bilinear", antialias=True)
    assert out.dtype == dtype and out.shape[2:] == size
    torch.testing.assert_close(out.double(), expected, rtol=1e-2, atol=1e-2 if dtype.itemsize == 2 else 1e-5)
    check_preprocess(shrink, x, "D8", tolerance=1e-2 if dtype.itemsize == 2 else 1e-5)


@pytest.mark.parametrize(
    ("preprocess", "commutes"),
    [
        (CropResize(0.8, 16), True),
        (lambda x: F.interpolate(x, (16, 16), mode="bilinear", antialias=True), True),
        (lambda x: F.interpolate(x, (16, 16), mode="area"), True),
        (lambda x: (x - 0.5).clamp(0, 1), True),
        (lambda x: F.avg_pool2d(x, 2), True),
        (lambda x: F.interpolate(x, (16, 16)), False),
        (lambda x: x[:, :, :-1, :-1], False),
        (lambda x: F.dropout(x, 0.5), False),
        (lambda x: x + torch.linspace(0, 1, x.shape[3]), False),
        (lambda x: x[:, :, : 20 + int(x[0, 0, 0, 0] > 0.5)], False),
    ],
)
def test_what_commutes_and_what_does_not(preprocess, commutes):
    x = torch.rand(3, 3, 44, 44, generator=torch.Generator().manual_seed(0))
    if commutes:
        check_preprocess(preprocess, x, "D4")
        return
    with pytest.raises(ValueError, match="^preprocess: (doesn't commute with element 1 of D4|expected one shape).*"):
        check_preprocess(preprocess, x, as_group("D4"))


def test_a_canonicalizer_with_a_crop_and_a_resize_is_invariant():
    torch.manual_seed(0)
    canonicalizer = Canonicalizer(ConvNetwork((3, 32, 32), 4, 5, 2, 8), "C4", crop=0.8, resize=32).eval()
    x = torch.rand(24, 3, 70, 70)
    with torch.no_grad():
        form = canonicalizer(x)
        for quarters in range(1, 4):
            assert_same(canonicalizer(x.rot90(quarters, (2, 3))).image, form.image)
    assert "CropResize" in repr(canonicalizer) and set(canonicalizer.state_dict()) == {
        "reference",
        *(f"network.{key}" for key in canonicalizer.network.state_dict()),
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop": 0}, "crop: expected 'square' or a share of each side, 0 < crop ≤ 1, got 0"),
        ({"crop": 1.5}, "crop: .* got 1.5"),
        ({"crop": "round"}, "crop: .* got 'round'"),
        ({"resize": 0}, r"resize: expected a size of at least 1, or \(h, w\), got 0"),
        ({"resize": (1, 2, 3)}, r"resize: .* got \(1, 2, 3\)"),
    ],
)
def test_what_is_wrong_is_named(options, message):
    with pytest.raises(ValueError, match=message):
        CropResize(**options)
    with pytest.raises(ValueError, match=message):
        Canonicalizer(ConvNetwork((3, 64, 64)), "C4", **options)
    with pytest.raises(ValueError, match="preprocess: expected None with crop or resize"):
        Canonicalizer(ConvNetwork((3, 64, 64)), "C4", crop=0.5, preprocess=lambda x: x)
