"""Small real videos for the tests, made with PyAV."""

from fractions import Fraction

import av
import numpy as np

from motionrag.video import write_video


def moving(frames=20, height=48, width=64, seed=0):
    """A bright square that walks over a smooth random ground: u8 [T, 3, H, W]; every frame differs."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(5, 20) + y / rng.uniform(5, 20) + rng.uniform(0, 6)) for _ in range(3)]
    ground = (100 + 50 * np.stack(waves)).astype(np.uint8)
    clip = np.repeat(ground[None], frames, 0)
    side = height // 4
    for i in range(frames):
        left = round((width - side) * i / max(frames - 1, 1))
        top = round((height - side) * (0.5 + 0.4 * np.sin(6.3 * i / max(frames - 1, 1) + seed)))
        clip[i, :, top : top + side, left : left + side] = np.array([[[230]], [[220]], [[40]]])
    return clip


def encode(path, clip, *, fps=20, codec="libx264", pix_fmt="yuv420p", times=None, options=None, setup=None, **more):
    """Encode u8 [T, 3, H, W]; `times` are ticks of 1/1000 s, `setup` is given the stream before the first frame."""
    with av.open(str(path), "w", **more) as container:
        stream = container.add_stream(codec, fps, options=options or {})
        stream.height, stream.width, stream.pix_fmt = *clip.shape[2:], pix_fmt
        if times is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if setup:
            setup(stream)
        for i, image in enumerate(np.moveaxis(clip, 1, -1)):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), "rgb24").reformat(format=pix_fmt)
            frame.pts = i if times is None else times[i]
            frame.time_base = Fraction(1, 1000) if times is not None else Fraction(1, fps)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def sound(container, codec="aac", seconds=1.0, layout="mono"):
    """Add a stream of a tone to an output container; returns a function that writes it."""
    stream = container.add_stream(codec, 44100, layout=layout)

    def write():
        size = stream.codec_context.frame_size or 1024
        form = stream.format.name
        for i in range(int(seconds * 44100 / size)):
            wave = (0.2 * np.sin(np.arange(i * size, (i + 1) * size) / 20)).astype(np.float32)
            data = (
                wave[None]
                if form.startswith("flt")
                else (wave[None] * 2**15).astype(np.int32 if form.startswith("s32") else np.int16)
            )
            frame = av.AudioFrame.from_ndarray(data, format=form, layout=layout)
            frame.sample_rate, frame.pts = 44100, i * size
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    return write


def mp4(path, **more):
    write_video(path, moving(**more), 20)
    return path


def psnr(one, other):
    error = np.mean((one.astype(np.float64) - other) ** 2)
    return 99.0 if error == 0 else 10 * np.log10(255**2 / error)
