"""Files of images: turned as the group says, as shown by their EXIF, and otherwise as they were."""

import io
import itertools
import struct
import zlib

import pytest
import torch

import equifast
from equifast.targets import act_masks

Image = pytest.importorskip("PIL.Image")
PngImagePlugin = pytest.importorskip("PIL.PngImagePlugin")

from equifast.datasets.pictures import ORIENTATION, canonical, opened, undo, values, view  # noqa: E402

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I", "F", "I;16"]
LABELS = {"1", "P"}
GROUPS = ["C1", "C3", "C4", "D4", "C6", "D6", "C8", "D8"]


def picture(mode, width=9, height=9, seed=0):
    """Noise in a mode of Pillow."""
    generator = torch.Generator().manual_seed(seed)
    if mode in ("I", "I;16"):
        pixels = torch.randint(65536, (height, width), generator=generator)
        return Image.frombytes("I", (width, height), pixels.int().numpy().tobytes()).convert(mode)
    if mode == "F":
        return Image.frombytes("F", (width, height), torch.randn(height, width, generator=generator).numpy().tobytes())
    if mode == "1":
        return picture("L", width, height, seed).point(lambda value: 255 * (value > 127)).convert("1")
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = torch.randint(256, (height, width, bands), generator=generator, dtype=torch.uint8)
    image = Image.frombytes(mode, (width, height), pixels.numpy().tobytes())
    if mode == "P":
        image.putpalette(torch.randint(256, (768,), generator=generator).tolist())
    return image


def pixels_of(image):
    return values(image.convert("L") if image.mode == "1" else image)


def same(a, b):
    return (a.mode, a.size, a.getpalette()) == (b.mode, b.size, b.getpalette()) and a.tobytes() == b.tobytes()


def elements(name):
    return range(equifast.as_group(name).order)


@pytest.mark.parametrize("name", GROUPS)
@pytest.mark.parametrize("mode", MODES)
def test_undoing_an_element_is_its_inverse_action(mode, name):
    """On a square, to the last bit where it is exact, else up to the order of a quarter turn and an interpolation."""
    group, image = equifast.as_group(name), picture(mode)
    before = pixels_of(image)[None]
    for element in elements(name):
        ids = torch.tensor([element])
        turned = undo(image, element, group)
        assert (turned.mode, turned.getpalette()) == (image.mode, image.getpalette())
        if mode in LABELS:
            expected = act_masks(before, ids, group=group, inverse=True, padding_mode="border")
            assert torch.equal(pixels_of(turned), expected[0])
            continue
        expected = equifast.act(before.double(), ids, group=group, inverse=True)[0]
        if group.is_exact(element, 9, 9):
            assert torch.equal(pixels_of(turned).double(), expected)
        else:
            slack = 0.5 if mode != "F" else 1e-5
            torch.testing.assert_close(pixels_of(turned).double(), expected, rtol=1e-6, atol=slack + 1e-3)


@pytest.mark.parametrize("size", [(5, 8), (6, 9), (8, 4)])
def test_exact_elements_swap_the_sides_as_a_camera_does(size):
    group, image = equifast.as_group("D8"), picture("RGB", *size)
    for element in elements("D8"):
        if group.is_exact(element, 1, 1):
            rotation, reflection = group.split(group.inverse(element))
            pixels = values(image).flip(2) if reflection else values(image)
            assert torch.equal(values(undo(image, element, group)), pixels.rot90(rotation // 2, (1, 2)))


@pytest.mark.parametrize("name", ["C4", "D4", "C8", "D8", "C12"])
@pytest.mark.parametrize("mode", ["RGB", "P", "I;16"])
@pytest.mark.parametrize("size", [(5, 8), (9, 6), (7, 7)])
def test_a_turned_image_with_its_turned_element_has_the_same_canonical_image(mode, name, size):
    """Also where it isn't square and the element interpolates: h·x with h·g undone is x with g undone."""
    group, image = equifast.as_group(name), picture(mode, *size)
    exact = [h for h in elements(name) if group.is_exact(h, 1, 1)]
    for h, g in itertools.product(exact, elements(name)):
        turned = undo(image, group.inverse(h), group)
        assert same(undo(turned, group.compose(h, g), group), undo(image, g, group)), (h, g)


#: Formats and the modes that they keep without loss.
LOSSLESS = {
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["P"],
    "JPEG2000": ["L", "RGB", "RGBA"],
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "PPM": ["1", "L", "RGB", "I;16"],
    "TGA": ["L", "RGB", "RGBA"],
    "TIFF": [*MODES[:-4], "I", "F", "I;16"],
    "WEBP": ["RGB", "RGBA"],
}


def saved(image, kind, **options):
    buffer = io.BytesIO()
    if kind == "WEBP":
        options["lossless"] = True
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(("kind", "mode"), [(kind, mode) for kind, modes in LOSSLESS.items() for mode in modes])
def test_a_file_keeps_its_format_its_mode_and_its_pixels(kind, mode):
    group, raw = equifast.as_group("D8"), saved(picture(mode, 7, 10), kind)
    shown = opened(raw)
    for element in (0, 2, 5, 9, 12):
        expected = undo(shown, element, group)
        out = opened(canonical(raw, element, group))
        assert (out.format, out.mode) == (kind, shown.mode)
        colours = "RGBA" if mode == "P" else out.mode  # a palette may be stored in another order
        assert out.convert(colours).tobytes() == expected.convert(colours).tobytes()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
def test_a_file_that_nothing_turns_stays_as_it_is(kind):
    raw = saved(picture("RGB"), kind)
    assert canonical(raw, 0, equifast.as_group("C4")) is raw
    assert canonical(raw, 1, equifast.as_group("C4")) != raw


def with_orientation(image, kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    exif[0x010F] = "a maker"
    return saved(image, kind, exif=exif.tobytes() if kind != "TIFF" else exif)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_the_orientation_in_exif_is_honoured_once(kind, orientation):
    """Stored as orientation says, the same image gives the same file: no tag turns it again, and no other is lost."""
    group, shown = equifast.as_group("D4"), picture("RGB", 6, 9)
    # Orientation o shows the stored pixels under this element of D4: 1, 180°, flips, quarter turns.
    shows = {1: 0, 2: 4, 3: 2, 4: 6, 5: 5, 6: 3, 7: 7, 8: 1}[orientation]
    stored = undo(shown, shows, group)
    raw = with_orientation(stored, kind, orientation)
    torch.testing.assert_close(view(raw, 8), view(saved(shown, kind), 8))
    for element in elements("D4"):
        written = canonical(raw, element, group)
        assert same(opened(written), undo(shown, element, group))
        tags = Image.open(io.BytesIO(written)).getexif()
        assert tags.get(ORIENTATION, 1) == 1 and tags[0x010F] == "a maker"


def smooth(width, height):
    grid = torch.linspace(0, 3, width)[None] + torch.linspace(0, 2, height)[:, None]
    pixels = torch.stack([128 + 100 * (grid + phase).sin() for phase in range(3)], 2).byte().contiguous()
    return Image.frombytes("RGB", (width, height), pixels.numpy().tobytes())


@pytest.mark.parametrize("orientation", [1, 6])
@pytest.mark.parametrize("options", [{"quality": 60}, {"quality": 95, "subsampling": 0, "progressive": True}], ids=str)
def test_a_jpeg_keeps_its_tables_and_metadata(options, orientation):
    exif = Image.Exif()
    exif[ORIENTATION], exif[0x010F] = orientation, "a maker"
    exif.get_ifd(0x8769)[0x9003], exif.get_ifd(0x8825)[1] = "2026:11:30 12:00:00", "N"  # when and where
    raw = saved(smooth(64, 48), "JPEG", dpi=(72, 72), icc_profile=b"profile", exif=exif.tobytes(), **options)
    before, after = opened(raw), opened(canonical(raw, 3, equifast.as_group("C4")))
    assert after.quantization == before.quantization and after.layer == before.layer
    assert ("progressive" in after.info) == ("progressive" in before.info)
    assert after.info["icc_profile"] == b"profile" and after.info["dpi"] == (72, 72)
    tags = after.getexif()
    assert tags[0x010F] == "a maker" and tags.get(ORIENTATION, 1) == 1
    assert tags.get_ifd(0x8769)[0x9003] == "2026:11:30 12:00:00" and tags.get_ifd(0x8825)[1] == "N"
    assert after.size == ((48, 64) if orientation == 1 else (64, 48))
    turns = 1 if orientation == 1 else 0  # undoing 270° turns by 90°, and orientation 6 has turned by 270° already
    error = values(after).float() - values(before).rot90(turns, (1, 2)).float()
    assert error.abs().mean() < 2


def test_a_png_keeps_its_texts_and_transparency():
    texts = PngImagePlugin.PngInfo()
    texts.add_text("Title", "of it")
    raw = saved(picture("P"), "PNG", pnginfo=texts, transparency=3, dpi=(300, 300))
    out = opened(canonical(raw, 1, equifast.as_group("C4")))
    assert out.text == {"Title": "of it"} and out.info["transparency"] == 3
    assert out.info["dpi"] == pytest.approx((300, 300), rel=1e-3)


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "raw"])
def test_a_tiff_keeps_its_compression_and_texts(compression):
    raw = saved(picture("I;16"), "TIFF", compression=compression, description="of it", dpi=(300, 300))
    out = opened(canonical(raw, 1, equifast.as_group("C4")))
    assert out.info["compression"] == compression and out.tag_v2[270] == "of it" and out.info["dpi"] == (300, 300)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("size", [(12, 20), (21, 14), (3, 5)])
def test_what_a_network_sees_turns_with_the_image(mode, size):
    group, image = equifast.as_group("D4"), picture(mode, *size)
    seen = view(saved(image, "TIFF"), 8)
    assert seen.shape == (3, 8, 8) and seen.dtype == torch.float32
    assert mode == "F" or (seen.min() >= 0 and seen.max() <= 1)
    for element in elements("D4"):
        expected = equifast.act(seen[None], torch.tensor([element]), group=group, inverse=True)[0]
        torch.testing.assert_close(view(saved(undo(image, element, group), "TIFF"), 8), expected, rtol=1e-5, atol=1e-5)


def _chunk(kind, content):
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


#: 16 bits of each colour, of 3×2 pixels.
DEEP = {
    "PNG": b"\x89PNG\r\n\x1a\n"
    + _chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 2, 16, 2, 0, 0, 0))
    + _chunk(b"IDAT", zlib.compress(b"\0" + bytes(range(18)) + b"\0" + bytes(range(18))))
    + _chunk(b"IEND", b""),
    "PPM": b"P6 3 2 65535\n" + bytes(range(36)),
}


@pytest.mark.parametrize("kind", DEEP)
def test_colours_of_16_bits_are_refused_rather_than_halved(kind):
    group = equifast.as_group("C4")
    assert view(DEEP[kind], 8).shape == (3, 8, 8)
    assert canonical(DEEP[kind], 0, group) is DEEP[kind]
    with pytest.raises(ValueError, match="8 bits of each colour"):
        canonical(DEEP[kind], 1, group)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG"])
def test_several_frames_are_refused(kind):
    raw = saved(picture("P"), kind, save_all=True, append_images=[picture("P", seed=1)])
    with pytest.raises(ValueError, match="expected one frame, got 2"):
        opened(raw)


@pytest.mark.parametrize(
    "raw", [b"", b"no image", saved(smooth(64, 64), "JPEG")[:400], saved(smooth(64, 64), "PNG")[:90]]
)
def test_a_broken_file_is_an_error(raw):
    with pytest.raises(Exception, match=r"."):
        view(raw, 8)
