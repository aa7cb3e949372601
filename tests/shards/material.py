"""Small videos and frame folders for the tests."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from shards import Manifest, write

SIZE = (64, 48)  # width, height


def picture(number: int, scene: int = 0, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A frame [H W 3] of a slowly changing scene; scenes differ strongly."""
    width, height = size
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    wave = np.sin((x + number) / 7 + 2 * scene) + np.cos(y / 5 * (scene + 1))
    image = np.stack([128 + 40 * wave, 90 + 30 * wave, 60 + 100 * scene + 0 * wave], axis=-1)
    image[:6, :6] = (number * 3) % 256
    return image.clip(0, 255).astype(np.uint8)


def make_video(
    path: Path,
    frames: int = 40,
    *,
    times: Sequence[int] | None = None,
    fps: int = 30,
    scenes: Sequence[int] | None = None,
    codec: str = "libx264",
    fast_start: bool = False,
    gop: int = 12,
) -> Path:
    """Write a video; `times` are frame times in units of 1/fps, `scenes` the scene of each frame."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tick = Fraction(1, fps * 512)
    with av.open(str(path), "w", options={"movflags": "faststart"} if fast_start else {}) as file:
        stream = file.add_stream(codec, rate=fps)
        stream.width, stream.height = SIZE
        stream.pix_fmt = "yuv420p"
        stream.codec_context.time_base = tick
        stream.codec_context.gop_size = gop
        for number in range(frames):
            image = picture(number, scenes[number] if scenes else 0)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = (times[number] if times else number) * 512, tick
            file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def trim(source: Path, target: Path, frames: int, fps: int = 30) -> Path:
    """Cut the first frames off without encoding again: the file keeps them, an edit list hides them."""
    with av.open(str(source)) as reading, av.open(str(target), "w") as writing:
        stream = reading.streams.video[0]
        copy = writing.add_stream_from_template(stream)
        shift = round(frames / fps / float(stream.time_base))
        for packet in reading.demux(stream):
            if packet.dts is not None:
                packet.stream = copy
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                writing.mux(packet)
    return target


def rotate(source: Path, target: Path) -> Path:
    """Ask for a quarter turn clockwise in the container, as phones do."""
    data = bytearray(source.read_bytes())
    matrix = data.find(b"tkhd") + 4 + 40
    data[matrix : matrix + 36] = struct.pack(">9i", 0, 65536, 0, -65536, 0, 0, SIZE[1] << 16, 0, 1 << 30)
    target.write_bytes(data)
    return target


def make_folder(
    path: Path,
    numbers: Sequence[int] = range(30),
    *,
    suffix: str = ".jpg",
    size: tuple[int, int] = SIZE,
    scenes: Sequence[int] | None = None,
) -> Path:
    """Write `reg_img<number><suffix>` files (numbers not padded)."""
    path.mkdir(parents=True, exist_ok=True)
    for position, number in enumerate(numbers):
        image = picture(number, scenes[position] if scenes else 0, size)
        assert cv2.imwrite(str(path / f"reg_img{number}{suffix}"), image[..., ::-1])
    return path


def make_shards(root: Path, folders: Sequence[int] = (30, 45, 20), **options: object) -> Manifest:
    """Shards from frame folders of these lengths; small clips and shards, so that there are several of each."""
    for number, length in enumerate(folders):
        make_folder(root / "in" / f"s{number}", range(1, length + 1), scenes=[number % 2] * length)
    settings = {"size": 32, "clip_frames": 8, "shard_bytes": 60_000, "min_run": 4, **options}
    return write([root / "in"], root / "out", **settings)  # type: ignore[arg-type]


def contents(folder: Path) -> dict[str, bytes]:
    """Name to bytes of everything in a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}
