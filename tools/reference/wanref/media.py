"""Pictures and what diffusers' load_image makes of them, and what Pillow's Lanczos makes of pictures of many sizes."""

import io
import struct
import tempfile
import zlib
from pathlib import Path

import numpy as np
import torch
from diffusers.image_processor import VaeImageProcessor
from diffusers.utils import load_image
from PIL import Image

from .store import Store

# From width x height to width x height: shrinking, growing, one of each, by much, to and from one pixel, one side only, and
# (the last five) just before, at and after the point where Pillow takes the rows first.
SIZES = [
    ((16, 12), (8, 6)), ((8, 6), (16, 12)), ((13, 7), (7, 13)), ((7, 13), (13, 7)), ((31, 17), (5, 3)), ((5, 3), (37, 29)), ((40, 3), (3, 40)),
    ((1, 1), (5, 4)), ((9, 11), (1, 1)), ((1, 9), (6, 4)), ((9, 1), (4, 6)), ((23, 2), (1, 17)), ((10, 8), (10, 5)), ((10, 8), (6, 8)), ((64, 1), (3, 1)),
    ((33, 20), (32, 12)), ((20, 33), (17, 28)), ((20, 33), (17, 27)), ((20, 33), (17, 26)), ((12, 30), (12, 11)), ((12, 30), (15, 11)),
]  # fmt: skip
WIDTH, HEIGHT = 11, 7
ABOUT = [
    "pictures[]: load_image(key.file) is key.rgb [H, W, 3].",
    "grey16: Pillow clips 16-bit grey to 255; here it is cut to its upper 8 bits, as Pillow cuts every other channel of 16 bits.",
    "resize[]: VaeImageProcessor.resize (Pillow, LANCZOS) of key.from [h, w, 3] is key.to; all uint8.",
]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(samples: np.ndarray, depth: int, colour: int, before: bytes = b"", after: bytes = b"", interlaced: bool = False) -> bytes:
    """A PNG of samples [H, W, channels] of any depth, with more chunks before and after the pixels; Pillow writes few kinds."""
    height, width = samples.shape[:2]

    def rows(part: np.ndarray) -> bytes:
        out = b""
        for row in part:
            if depth == 16:
                out += b"\0" + row.astype(">u2").tobytes()
            elif depth == 8:
                out += b"\0" + row.astype("u1").tobytes()
            else:
                bits = "".join(format(int(value), f"0{depth}b") for value in row.flatten())
                bits += "0" * (-len(bits) % 8)
                out += b"\0" + bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))
        return out

    adam7 = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    parts = [samples[y::dy, x::dx] for x, y, dx, dy in adam7] if interlaced else [samples]
    data = b"".join(rows(part) for part in parts if part.size)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, int(interlaced))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", zlib.compress(data)) + after + chunk(b"IEND", b"")


def exif(orientation: int) -> bytes:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def saved(picture: Image.Image, kind: str, **options) -> bytes:
    out = io.BytesIO()
    picture.save(out, kind, **options)
    return out.getvalue()


def smooth(width: int, height: int) -> np.ndarray:
    """A picture that lossy formats keep: shades with an edge."""
    y, x = np.mgrid[0:height, 0:width]
    planes = [40 + 160 * x / width, 60 + 150 * y / height, np.where(x + y > (width + height) / 2, 190, 90)]
    return np.stack(planes, -1).astype(np.uint8)


def jpegs() -> dict[str, bytes]:
    """JPEGs of shades and of noise. What Pillow does not write is made of what it does by changing a few bytes."""
    random = np.random.default_rng(1001)
    shades = Image.fromarray(smooth(37, 22))
    cmyk = Image.fromarray(np.dstack([smooth(37, 22), smooth(37, 22)[..., 0] // 2]), "CMYK")
    noise = lambda width, height, mode="RGB": Image.frombytes(mode, (width, height), random.bytes(width * height * len(mode)))
    found = {
        "jpeg-444": saved(shades, "JPEG", quality=90, subsampling=0),
        "jpeg-420": saved(shades, "JPEG", quality=90, subsampling=2),
        "jpeg-422": saved(shades, "JPEG", quality=90, subsampling=1),
        "jpeg-progressive": saved(shades, "JPEG", quality=90, subsampling=2, progressive=True),
        "jpeg-grey": saved(shades.convert("L"), "JPEG", quality=90),
        "jpeg-cmyk": saved(cmyk, "JPEG", quality=90),
        "jpeg-exif": saved(shades, "JPEG", quality=90, subsampling=0, exif=exif(6)),
        "jpeg-rgb": saved(noise(19, 9), "JPEG", quality=80, keep_rgb=True),
        "jpeg-noise-444": saved(noise(7, 9), "JPEG", quality=100, subsampling=0),
        "jpeg-noise-422": saved(noise(33, 17), "JPEG", quality=75, subsampling=1, progressive=True),
        "jpeg-noise-420": saved(noise(17, 33), "JPEG", quality=50, subsampling=2),
        "jpeg-noise-coarse": saved(noise(45, 21), "JPEG", quality=10, subsampling=2, progressive=True),
        "jpeg-restart": saved(noise(40, 24), "JPEG", quality=60, subsampling=2, restart_marker_blocks=1),
        "jpeg-narrow": saved(noise(1, 19), "JPEG", quality=90, subsampling=2),
        "jpeg-low": saved(noise(19, 1), "JPEG", quality=90, subsampling=1),
        "jpeg-dot": saved(noise(1, 1), "JPEG", quality=90, subsampling=2),
    }
    # The factors of luma, 2x1 in 4:2:2, become 1x2: the blocks of a square picture are as many either way.
    found["jpeg-440"] = saved(noise(32, 32), "JPEG", quality=75, subsampling=1).replace(b"\x01\x21\x00", b"\x01\x12\x00", 1)
    # The last byte of Adobe's segment is the transform: 2 for luma and chroma of inks. Pillow needs no segment to invert them.
    inks = saved(noise(21, 18, "CMYK"), "JPEG", quality=75)
    at = inks.index(b"\xff\xee\0\x0eAdobe")
    found["jpeg-ycck"] = inks[: at + 15] + b"\2" + inks[at + 16 :]
    found["jpeg-cmyk-plain"] = inks[:at] + inks[at + 16 :]
    return found


def files(random: np.random.Generator) -> dict[str, bytes]:
    """The pictures as files."""
    depths = lambda depth, channels: random.integers(0, 2**depth, (HEIGHT, WIDTH, channels))
    found = {}
    for depth in (1, 2, 4, 8, 16):
        found[f"grey{depth}"] = png(depths(depth, 1), depth, 0)
        found[f"grey{depth}-interlaced"] = png(depths(depth, 1), depth, 0, interlaced=True)
    for depth in (8, 16):
        found[f"rgb{depth}"] = png(depths(depth, 3), depth, 2)
        found[f"grey-alpha{depth}"] = png(depths(depth, 2), depth, 4)
        found[f"rgba{depth}"] = png(depths(depth, 4), depth, 6)
        found[f"rgba{depth}-interlaced"] = png(depths(depth, 4), depth, 6, interlaced=True)
    found["rgb8-transparent"] = png(depths(8, 3), 8, 2, chunk(b"tRNS", struct.pack(">HHH", 1, 2, 3)))
    found["grey8-gamma"] = png(depths(8, 1), 8, 0, chunk(b"gAMA", struct.pack(">I", 100000)))
    for depth in (1, 2, 4, 8):
        palette = random.integers(0, 256, 3 * 2**depth, dtype=np.uint8).tobytes()
        found[f"palette{depth}"] = png(depths(depth, 1), depth, 3, chunk(b"PLTE", palette))
        found[f"palette{depth}-transparent"] = png(depths(depth, 1), depth, 3, chunk(b"PLTE", palette) + chunk(b"tRNS", b"\0\x80"))
    pixels = depths(8, 3)
    for orientation in range(1, 9):
        found[f"exif{orientation}"] = png(pixels, 8, 2, chunk(b"eXIf", exif(orientation)[6:]))
    found["exif-after"] = png(pixels, 8, 2, after=chunk(b"eXIf", exif(6)[6:]))
    digits = exif(8).hex()
    profile = f"\nexif\n{len(digits) // 2:8}\n{digits[:72]}\n{digits[72:]}\n".encode()
    found["exif-text"] = png(pixels, 8, 2, chunk(b"tEXt", b"Raw profile type exif\0" + profile))
    xmp = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="5"/>'
    found["xmp"] = png(pixels, 8, 2, chunk(b"iTXt", xmp))
    picture = Image.fromarray(pixels.astype(np.uint8))
    alpha = Image.fromarray(depths(8, 4).astype(np.uint8), "RGBA")
    found["webp-lossless"] = saved(picture, "WEBP", lossless=True, exact=True)
    found["webp-lossless-alpha"] = saved(alpha, "WEBP", lossless=True, exact=True)
    found["webp-exif"] = saved(picture, "WEBP", lossless=True, exact=True, exif=exif(7))
    found |= jpegs()
    found["webp-lossy"] = saved(Image.fromarray(smooth(37, 22)), "WEBP", quality=90)
    found["webp-lossy-alpha"] = saved(alpha.resize((37, 22)), "WEBP", quality=90)
    return found


def make(store: Store) -> None:
    random = np.random.default_rng(1000)
    tensors, pictures, resized = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        for key, data in files(random).items():
            path = Path(folder) / key
            path.write_bytes(data)
            rgb = np.array(load_image(str(path)))
            if key.startswith("grey16"):
                with Image.open(path) as picture:
                    rgb = np.repeat((np.array(picture) >> 8).astype(np.uint8)[..., None], 3, -1)
            tensors[f"{key}.file"] = torch.tensor(list(data), dtype=torch.uint8)
            tensors[f"{key}.rgb"] = torch.from_numpy(rgb)
            pictures.append({"key": key, "width": rgb.shape[1], "height": rgb.shape[0]})
    processor = VaeImageProcessor()
    for i, ((w, h), (width, height)) in enumerate(SIZES):
        key = f"{w}x{h}-{width}x{height}"
        pixels = random.integers(0, 256, (h, w, 3), dtype=np.uint8)
        # Extremes make the lobes overshoot.
        pixels = np.where(pixels > 127, 255, 0).astype(np.uint8) if i % 3 == 0 else pixels
        out = np.array(processor.resize(Image.fromarray(pixels), height, width))
        tensors[f"{key}.from"], tensors[f"{key}.to"] = torch.from_numpy(pixels), torch.from_numpy(out)
        resized.append({"key": key, "from": [w, h], "to": [width, height]})
    store.save("media", {"about": ABOUT, "pictures": pictures, "resize": resized}, tensors)
