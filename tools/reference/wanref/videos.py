"""Small MP4 files as ffmpeg and x264 write them, and their frames; needs an `ffmpeg` with libx264."""

import struct
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from .store import Store

WIDTH, HEIGHT, FRAMES = 40, 24, 9
# MatrixCoefficients of ITU-T H.273: weights of red and blue.
WEIGHTS = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}
H264 = ["-c:v", "libx264", "-pix_fmt", "yuv420p", "-qp", "20", "-bsf:v", "filter_units=remove_types=6"]
# Name: what ffmpeg is told, the matrix, the range, quarter turns clockwise.
READ = {
    "b-frames.mp4": (["-profile:v", "high", "-bf", "3", "-b_strategy", "0", "-g", "6"], "bt601", False, 0),
    "full-range.mp4": (["-profile:v", "baseline", "-movflags", "+faststart", "-color_range", "pc", "-colorspace", "smpte170m"], "bt601", True, 0),
    "bt709.mp4": (["-profile:v", "main", "-bf", "1", "-slices", "2", "-colorspace", "bt709", "-color_primaries", "bt709", "-color_trc", "bt709"], "bt709", False, 0),
    "turned.mp4": (["-bf", "0"], "bt601", False, 1),
    "sound.mov": (["-bf", "2", "-c:a", "aac", "-b:a", "16k", "-chunk_duration", "50000"], "bt601", False, 0),
}  # fmt: skip
# Name: what ffmpeg is told, a word of the refusal.
REFUSED = {
    "mpeg4.mp4": (["-c:v", "mpeg4", "-q:v", "20"], "MPEG-4 part 2"),
    "444.mp4": ([*H264, "-pix_fmt", "yuv444p"], "4:4:4"),
    "10-bit.mp4": ([*H264, "-pix_fmt", "yuv420p10le"], "10 bits"),
    "interlaced.mp4": ([*H264, "-flags", "+ilme+ildct", "-x264-params", "tff=1"], "interlaced"),
    "fragmented.mp4": ([*H264, "-movflags", "frag_keyframe+empty_moov"], "fragmented"),
    "sound-only.mp4": (["-vn", "-c:a", "aac", "-b:a", "16k"], "no video"),
    "mjpeg.avi": (["-c:v", "mjpeg", "-q:v", "30"], "AVI"),
}  # fmt: skip
ABOUT = [
    "read[]: key.file is the file, key.rgb [frames, H, W, 3] its frames in the order shown, turned: ffmpeg's planes, chroma interpolated linearly",
    "(it lies on even columns, between rows), by the matrix and range of H.273 in f64, rounded. `fps`: as asked of ffmpeg.",
    "refused[]: key.file must not be read; `word` is in the message.",
]


def ffmpeg(*arguments: str) -> None:
    subprocess.run(["ffmpeg", "-hide_banner", "-loglevel", "error", "-nostdin", "-y", *arguments], check=True)


def turned(data: bytes) -> bytes:
    """The file with the matrix of its track set to a quarter turn clockwise: right becomes down, down becomes left."""
    at = data.index(b"tkhd") + 4 + 40
    matrix = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, HEIGHT << 16, 0, 1 << 30)
    return data[:at] + matrix + data[at + len(matrix) :]


def planes(path: Path, width: int, height: int) -> list[np.ndarray]:
    """All luma, blue and red planes, as [frames, rows, columns]."""
    raw = path.with_suffix(".yuv")
    ffmpeg("-noautorotate", "-i", str(path), "-map", "0:v", "-f", "rawvideo", "-fps_mode", "passthrough", str(raw))
    data = np.fromfile(raw, np.uint8).reshape(-1, width * height * 3 // 2)
    luma, chroma = width * height, width * height // 4
    parts = data[:, :luma], data[:, luma : luma + chroma], data[:, luma + chroma :]
    return [part.reshape(len(data), height >> i, width >> i) for part, i in zip(parts, (0, 1, 1))]


def double(plane: np.ndarray) -> np.ndarray:
    """A chroma plane in full size: 3:1 between rows, the mean of neighbours between columns, edges repeated."""
    above = np.concatenate([plane[:, :1], plane[:, :-1]], 1)
    below = np.concatenate([plane[:, 1:], plane[:, -1:]], 1)
    rows = np.stack([0.75 * plane + 0.25 * above, 0.75 * plane + 0.25 * below], 2).reshape(len(plane), -1, plane.shape[2])
    right = np.concatenate([rows[..., 1:], rows[..., -1:]], -1)
    return np.stack([rows, (rows + right) / 2], -1).reshape(*rows.shape[:2], -1)


def rgb(path: Path, matrix: str, full: bool, turns: int) -> np.ndarray:
    y, b, r = (plane.astype(np.float64) for plane in planes(path, WIDTH, HEIGHT))
    (kr, kb), b, r = WEIGHTS[matrix], double(b - 128), double(r - 128)
    y, span = (y, 2) if full else ((y - 16) * 255 / 219, 255 / 112)
    red, blue = y + span * (1 - kr) * r, y + span * (1 - kb) * b
    green = (y - kr * red - kb * blue) / (1 - kr - kb)
    out = np.stack([red, green, blue], -1).round().clip(0, 255).astype(np.uint8)
    return np.rot90(out, -turns, (1, 2)).copy()


def make(store: Store) -> None:
    tensors, read, refused = {}, [], []
    with tempfile.TemporaryDirectory() as folder:
        picture = ["-f", "lavfi", "-i", f"testsrc2=size={WIDTH}x{HEIGHT}:rate=25,scroll=horizontal=0.06:vertical=0.04"]
        sound = ["-f", "lavfi", "-i", "sine=frequency=440"]
        frames = ["-frames:v", str(FRAMES), "-t", str(FRAMES / 25), "-threads", "1", "-fflags", "+bitexact", "-flags:v", "+bitexact"]
        for key, (options, matrix, full, turns) in READ.items():
            path = Path(folder) / key
            inputs = [*picture, *(sound if "-c:a" in options else [])]
            scale = ["-vf", "scale=out_range=pc"] if full else []
            ffmpeg(*inputs, *scale, *frames, *H264, *options, str(path))
            if turns:
                path.write_bytes(turned(path.read_bytes()))
            tensors[f"{key}.file"] = torch.from_numpy(np.fromfile(path, np.uint8))
            tensors[f"{key}.rgb"] = torch.from_numpy(rgb(path, matrix, full, turns))
            read.append({"key": key, "fps": 25.0})
        for key, (options, word) in REFUSED.items():
            path = Path(folder) / key
            ffmpeg(*picture, *(sound if "-c:a" in options else []), *frames, *options, str(path))
            tensors[f"{key}.file"] = torch.from_numpy(np.fromfile(path, np.uint8))
            refused.append({"key": key, "word": word})
    store.save("videos", {"about": ABOUT, "read": read, "refused": refused}, tensors)
