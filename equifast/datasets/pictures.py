"""Images as files: what a network sees of them, and the same file with its pixels turned."""

from __future__ import annotations

import io
import math
from typing import Any, cast

import torch
from PIL import Image, ImageOps, JpegImagePlugin, PngImagePlugin, UnidentifiedImageError
from torch import Tensor

from .. import ops, targets
from ..groups import Group
from ..nn import CropResize

#: How many counter-clockwise quarter turns each method of Pillow makes.
QUARTERS = {1: Image.Transpose.ROTATE_90, 2: Image.Transpose.ROTATE_180, 3: Image.Transpose.ROTATE_270}

#: Values of a pixel by mode of an image; all other modes have bytes.
WIDE = {"I": torch.int32, "F": torch.float32, "I;16": torch.uint16}

#: The tag of EXIF and TIFF that tells how an image is to be turned before it is shown.
ORIENTATION = 0x0112

#: Tags of TIFF that are text about an image: description, maker, model, software, date, artist, copyright.
TIFF_TEXT = (270, 271, 272, 305, 306, 315, 33432)

#: Quality of formats that lose detail and don't tell how much. JPEG has its tables.
QUALITY = 90


def opened(raw: bytes) -> Image.Image:
    """An image as its file has it, decoded, but not yet turned as its EXIF says.

    Raises:
        Exception: of many kinds, where Pillow can't decode it. ValueError: if it has several frames, or is no image.
    """
    try:
        image: Image.Image = Image.open(io.BytesIO(raw))
    except UnidentifiedImageError:
        raise ValueError("expected an image of a format that Pillow knows") from None
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # what a camera adds to its photograph: previews, depth
        raise ValueError(f"expected one frame, got {frames}")
    image.load()
    return image


def view(raw: bytes, size: int) -> Tensor:
    """What a network sees: the central square as shown, (3, size, size) float32, in [0, 1] unless the image has floats.

    Crop and resize commute with turns and flips (`nn.CropResize`).
    """
    image = ImageOps.exif_transpose(opened(raw))
    if image.mode.startswith("I") or image.mode == "F":
        scale = 1.0 if image.mode == "F" else 65535.0  # Pillow reads 16 bits as I, too
        pixels = values(image).float().expand(3, -1, -1) / scale
    else:
        if "transparency" in image.info:
            image = image.convert("RGBA")
        pixels = values(image.convert("RGB")).float() / 255
    return CropResize("square", size)(pixels[None])[0]


def canonical(raw: bytes, element: int, group: Group) -> bytes:
    """A file with the canonical image ``g_e⁻¹·x`` of the image x as shown, in the same format.

    A file stays as it is, to the last byte, where neither its EXIF nor the element turns it.

    Raises:
        Exception: of many kinds, where Pillow can't read the file, or can't write such an image in this format.
        ValueError: if that would lose half of the bits of a colour.
    """
    header = Image.open(io.BytesIO(raw))
    # Pillow turns a TIFF when it loads the pixels, and then has no tag of it.
    if element == 0 and header.getexif().get(ORIENTATION, 1) == 1:
        return raw
    if _halves_depth(header):
        raise ValueError(f"expected 8 bits of each colour, which Pillow keeps, got 16 ({header.mode})")
    source = opened(raw)
    return encoded(undo(ImageOps.exif_transpose(source), element, group), source, raw)


def _halves_depth(header: Image.Image) -> bool:
    """Whether Pillow reads 8 bits of 16, as it does of colours. It keeps gray images of 16 bits."""
    if header.mode.startswith(("I", "F")):
        return False
    # What the decoder is told, before it runs: such as "RGB;16B"; the largest value of a PPM.
    tiles = getattr(header, "tile", [])
    return any(";16" in str(tile[3]) or (tile[0] == "ppm" and tile[3][1] > 255) for tile in tiles)


def undo(image: Image.Image, element: int, group: Group) -> Image.Image:
    """``g_e⁻¹·x``, in the same mode and with the same palette.

    The element is h·c: an exact h, that is quarter turns and a flip, and a rotation c by less than the least exact one
    of the group. To undo h moves pixels, and its quarter turns swap the sides of the frame. To undo c interpolates
    within that frame. So an image that comes turned by another exact element has the same canonical image, also where
    it isn't square.
    """
    rotation, reflection = group.split(element)
    step = group.n // math.gcd(group.n, 4)
    rest = (-rotation if reflection else rotation) % step
    quarters = 4 * (rotation + rest if reflection else rotation - rest) // group.n % 4
    if reflection:  # which is its own inverse
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    else:
        quarters = -quarters % 4
    image = image.transpose(QUARTERS[quarters]) if quarters else image
    return _undo_rotation(image, rest, group) if rest else image


def _undo_rotation(image: Image.Image, element: int, group: Group) -> Image.Image:
    if image.mode == "1":
        return _interpolated(image.convert("L"), element, group, is_label=True).convert("1", dither=Image.Dither.NONE)
    if image.mode.startswith("I;16"):
        image = image.convert("I").convert("I;16")  # in the byte order of this machine
    return _interpolated(image, element, group, is_label=image.mode in ("P", "PA"))


def _interpolated(image: Image.Image, element: int, group: Group, is_label: bool) -> Image.Image:
    """Entries of a palette and single bits are labels: between two of them there is none, so the nearest is taken."""
    pixels, ids = values(image)[None], torch.tensor([element])
    if is_label:
        moved = targets.act_masks(pixels, ids, group=group, inverse=True, padding_mode="border")
        assert isinstance(moved, Tensor)
    else:
        wide = pixels.double() if pixels.dtype == torch.int32 else pixels.float()
        moved = ops.act(wide, ids, group=group, inverse=True)
        moved = (moved if pixels.is_floating_point() else moved.round()).to(pixels.dtype)
    out = image.copy()
    out.frombytes(moved[0].permute(1, 2, 0).contiguous().numpy().tobytes())
    return out


def values(image: Image.Image) -> Tensor:
    """The pixels of an image, (C, H, W), in the type that its mode has."""
    flat = torch.frombuffer(bytearray(image.tobytes()), dtype=WIDE.get(image.mode, torch.uint8))
    return flat.view(image.height, image.width, len(image.getbands())).permute(2, 0, 1)


def encoded(image: Image.Image, source: Image.Image, raw: bytes) -> bytes:
    """An image as a file in the format of ``source``, with its metadata and as little loss as that had."""
    kind = "JPEG" if source.format == "MPO" else source.format
    kept = ("icc_profile", "dpi", "xmp", "comment", "transparency")
    options: dict[str, Any] = {key: source.info[key] for key in kept if key in source.info}
    exif = image.getexif()
    if len(exif) and kind != "TIFF":
        exif.pop(ORIENTATION, None)
        options["exif"] = exif.tobytes()
    if isinstance(source, JpegImagePlugin.JpegImageFile):
        options |= {"qtables": source.quantization, "progressive": "progressive" in source.info}
        if (sampling := JpegImagePlugin.get_sampling(source)) >= 0:
            options["subsampling"] = sampling
    elif isinstance(source, PngImagePlugin.PngImageFile):
        options["pnginfo"] = texts = PngImagePlugin.PngInfo()
        for key, text in source.text.items():
            texts.add_text(key, text)
    elif kind == "TIFF":
        tags = cast(Any, source).tag_v2  # of TiffImageFile, whose class has no other use here
        options["tiffinfo"] = {tag: tags[tag] for tag in TIFF_TEXT if tag in tags}
        options["compression"] = source.info.get("compression")
    elif kind in ("AVIF", "WEBP"):
        options |= {"quality": QUALITY} if b"VP8L" not in raw[:64] else {"lossless": True}
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()
