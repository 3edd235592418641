from __future__ import annotations

import io
import socket
import threading
import time
import urllib.error
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from timm.data import create_transform, resolve_model_data_config

from vitexplain_utils import load_image, preprocess
from vitexplain_utils.models import crop_box
from vitexplain_utils.show import pictures

UPRIGHT = {  # EXIF orientation: what turns the stored pixels upright
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}
NOISE = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)


def file_of(image: Image.Image, kind: str = "PNG", **options) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_exif_orientation(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    upright = load_image(file_of(Image.fromarray(NOISE), exif=exif))
    assert np.array_equal(np.asarray(upright), UPRIGHT[orientation](NOISE))


def test_path_string_and_file_object_agree(tmp_path):
    path = tmp_path / "noise.png"
    path.write_bytes(file_of(Image.fromarray(NOISE)).getvalue())
    file = io.BytesIO(path.read_bytes())
    file.read()  # a file that was read before is read from its start
    for source in (path, str(path), file):
        image = load_image(source)
        assert image.mode == "RGB"
        assert np.array_equal(np.asarray(image), NOISE)


def grey16() -> Image.Image:
    return Image.fromarray(np.array([[0, 257, 25700, 65535]], dtype=np.uint16))


def palette() -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    return image


def rgba(alpha: int) -> Image.Image:
    return Image.new("RGBA", (1, 1), (0, 100, 200, alpha))


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (Image.new("L", (1, 1), 77), {}, [(77, 77, 77)]),
        (grey16(), {}, [(0, 0, 0), (1, 1, 1), (100, 100, 100), (255, 255, 255)]),
        (palette(), {}, [(255, 0, 0), (0, 0, 255)]),
        (palette(), {"transparency": 1}, [(255, 0, 0), (255, 255, 255)]),
        (palette(), {"transparency": b"\x00\xff"}, [(255, 255, 255), (0, 0, 255)]),
        (rgba(255), {}, [(0, 100, 200)]),
        (rgba(0), {}, [(255, 255, 255)]),
        (rgba(51), {}, [(204, 224, 244)]),  # a fifth of the colour, the rest white
        (Image.new("LA", (1, 1), (100, 51)), {}, [(224, 224, 224)]),
        (Image.new("RGB", (1, 1), (1, 2, 3)), {"transparency": (1, 2, 3)}, [(255, 255, 255)]),
        (Image.new("1", (1, 1), 1), {}, [(255, 255, 255)]),
        (Image.new("1", (1, 1), 0), {}, [(0, 0, 0)]),
    ],
)
def test_modes_of_png(image, options, expected):
    loaded = load_image(file_of(image, **options))
    assert loaded.mode == "RGB"
    assert [tuple(pixel) for row in np.asarray(loaded).tolist() for pixel in row] == expected


def test_cmyk_jpeg():
    file = file_of(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG", quality=100)
    assert np.abs(np.asarray(load_image(file)).astype(int) - (255, 0, 0)).max() <= 3


def test_first_frame_of_an_animation():
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    file = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert load_image(file).getpixel((2, 2)) == (255, 0, 0)


@pytest.mark.parametrize("image", [Image.new("F", (2, 2)), Image.new("I", (2, 2), 70000)])
def test_values_of_unknown_range(image):
    with pytest.raises(ValueError, match="mode"):
        load_image(file_of(image, "TIFF"))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF"])
def test_cut_off_file(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    path = tmp_path / "cut.picture"
    content = file_of(Image.fromarray(noise), kind).getvalue()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"image .*cut\.picture"):
        load_image(path)


@pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_picture(content, tmp_path):
    path = tmp_path / "notes.png"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"notes\.png"):
        load_image(path)
    with pytest.raises(ValueError, match="image the file"):
        load_image(io.BytesIO(content))
    with path.open("rb") as file, pytest.raises(ValueError, match=r"notes\.png"):
        load_image(file)  # an open file has a name


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "none.png", tmp_path):
        with pytest.raises(FileNotFoundError, match=path.name):
            load_image(path)


@pytest.mark.parametrize("limit", [34, 20, 10])
def test_decompression_bomb(limit, monkeypatch):
    file = file_of(Image.fromarray(NOISE))  # 35 pixels
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ValueError, match="decompression bomb"):
        load_image(file)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 35)
    assert load_image(file).size == (7, 5)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        found, (path, _, where) = self.path.startswith("/noise"), self.path.partition("?")
        self.send_response(302 if path == "/to" else 200 if found else 404)
        if path == "/to":
            self.send_header("Location", where)
        self.end_headers()
        if found:
            self.wfile.write(file_of(Image.fromarray(NOISE)).getvalue())

    def log_message(self, *_) -> None:
        pass


@pytest.fixture
def server(monkeypatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    httpd = HTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def test_url(server):
    assert np.array_equal(np.asarray(load_image(f"{server}/noise.png?size=1")), NOISE)
    assert np.array_equal(np.asarray(load_image(f"HTTP{server[4:]}/noise.png")), NOISE)


@pytest.fixture
def drip(monkeypatch) -> Iterator[str]:
    """A server that sends a byte now and then, and never ends."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    listening = socket.create_server(("127.0.0.1", 0))
    stop = threading.Event()

    def serve() -> None:
        line, _ = listening.accept()
        with line:
            head = b"HTTP/1.0 200 OK\r\n\r\n"
            for byte in [head[n : n + 1] for n in range(len(head))] + [b"x"] * 1000:
                if stop.wait(0.01 if byte in head else 0.05):
                    return
                line.sendall(byte)

    thread = threading.Thread(target=serve)
    thread.start()
    yield f"http://127.0.0.1:{listening.getsockname()[1]}/x.png"
    stop.set()
    thread.join()
    listening.close()


@pytest.mark.parametrize("seconds", [0.1, 1])  # within the head, within the picture
def test_a_server_that_takes_its_time(drip, monkeypatch, seconds):
    monkeypatch.setattr(pictures, "_DEADLINE", seconds)
    start = time.monotonic()
    with pytest.raises(ValueError, match=f"cannot be fetched: {seconds} seconds were not enough"):
        load_image(drip)
    assert time.monotonic() - start < seconds + 5


@pytest.mark.parametrize("where", ["ftp://127.0.0.1/x.png", "file:///etc/hostname", "data:,x"])
def test_a_redirection_to_another_scheme_is_refused(server, where):
    with pytest.raises(ValueError, match="cannot be fetched"):
        load_image(f"{server}/to?{where}")


def test_a_redirection_within_http_is_followed(server):
    assert load_image(f"{server}/to?{server}/noise.png").size == (7, 5)


def test_url_not_found(server):
    with pytest.raises(ValueError, match=r"other\.png cannot be fetched.*404") as caught:
        load_image(f"{server}/other.png")
    error = caught.value.__cause__
    if isinstance(error, urllib.error.HTTPError):
        error.close()


def test_url_too_large(server, monkeypatch):
    size = len(file_of(Image.fromarray(NOISE)).getvalue())
    monkeypatch.setattr(pictures, "_MAX_DOWNLOAD", size)
    assert load_image(f"{server}/noise.png").size == (7, 5)
    monkeypatch.setattr(pictures, "_MAX_DOWNLOAD", size - 1)
    with pytest.raises(ValueError, match=f"more than {size - 1} bytes"):
        load_image(f"{server}/noise.png")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x.png", "http://a b/x.png", "http://[::1/x"])
def test_url_that_cannot_be_reached_or_read(url):
    with pytest.raises(ValueError, match=r"image http.*cannot be fetched"):
        load_image(url)


def model_of(name: str, **settings):
    return timm.create_model(name, depth=1, embed_dim=48, **settings).eval()


def recropped(crop_pct: float, crop_mode: str = "center", size: tuple[int, int] = (64, 64)):
    model = model_of("vit_tiny_patch16_224", img_size=size)
    config = model.pretrained_cfg
    config = config if isinstance(config, dict) else config.to_dict()
    model.pretrained_cfg = {**config, "crop_pct": crop_pct, "crop_mode": crop_mode}
    return model


def smooth(width: int, height: int) -> Image.Image:
    """Red is the column and green the row, both from 0 to 255."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    values = np.stack([x, y, 0 * x + 0.5], -1) * 255
    return Image.fromarray(values.round().astype(np.uint8))


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2"]
)
def test_crop_equals_timms_own_transform(name):
    model, image = model_of(name), smooth(300, 260)
    transform = create_transform(**resolve_model_data_config(model))
    assert torch.equal(preprocess(model, image, crop=True)[0], transform(image))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("deit_tiny_patch16_224", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("vit_tiny_patch16_224", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
@pytest.mark.parametrize("crop", [False, True])
def test_mean_and_std_are_the_models(name, mean, std, crop):
    colour = (51, 102, 204)
    x = preprocess(model_of(name), Image.new("RGB", (250, 230), colour), crop=crop)
    assert x.shape == (1, 3, 224, 224)
    for channel in range(3):
        expected = (colour[channel] / 255 - mean[channel]) / std[channel]
        assert x[0, channel].tolist() == [[pytest.approx(expected, abs=1e-5)] * 224] * 224


@pytest.mark.parametrize("size", [(224, 224), (32, 96), (96, 32)])
def test_the_whole_picture_is_seen(size):
    pixels = np.zeros((300, 200, 3), dtype=np.uint8)
    pixels[:15], pixels[-15:] = (255, 0, 0), (0, 255, 0)
    pixels[15:-15, :10], pixels[15:-15, -10:] = (0, 0, 255), (255, 255, 0)
    model = model_of("vit_tiny_patch16_224", img_size=size)
    x = preprocess(model, Image.fromarray(pixels))[0]
    assert x.shape == (3, *size)
    rows, cols = size
    assert x[:, 0, cols // 2].tolist() == pytest.approx([1, -1, -1], abs=0.02)
    assert x[:, -1, cols // 2].tolist() == pytest.approx([-1, 1, -1], abs=0.02)
    assert x[:, rows // 2, 0].tolist() == pytest.approx([-1, -1, 1], abs=0.02)
    assert x[:, rows // 2, -1].tolist() == pytest.approx([1, 1, -1], abs=0.02)
    cropped = preprocess(model, Image.fromarray(pixels), crop=True)[0]
    assert cropped[:, 0, cols // 2].tolist() != pytest.approx([1, -1, -1], abs=0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtype_of_the_model(dtype):
    model = model_of("vit_tiny_patch16_224", img_size=32).to(dtype)
    assert preprocess(model, smooth(50, 50)).dtype == dtype


def test_transparency_becomes_white_before_the_model_sees_it():
    model = model_of("vit_tiny_patch16_224", img_size=32)
    assert (preprocess(model, Image.new("RGBA", (40, 40), (0, 0, 0, 0))) == 1).all()


def by_half(x: torch.Tensor, mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """The input with mean and standard deviation 0.5, as `seen` wants it, in place of these."""
    own_mean, own_std = torch.tensor([mean, std])[..., None, None]
    return (x * own_std + own_mean) * 2 - 1


def seen(x: torch.Tensor, size: tuple[int, int]) -> tuple[float, ...]:
    """The edges of what the tensor shows of `smooth`, from a line through its pixels."""
    red, green = x[0, :2].double().numpy() * 0.5 + 0.5  # fractions of width and height
    edges = []
    for values, length in ((red.mean(0), size[0]), (green.mean(1), size[1])):
        inner = np.arange(len(values))[3:-3]
        slope, offset = np.polyfit(inner, values[3:-3], 1)
        edges.append([(offset + slope * at) * length for at in (-0.5, len(values) - 0.5)])
    (left, right), (upper, lower) = edges
    return left, upper, right, lower


@pytest.mark.parametrize("size", [(400, 300), (300, 400), (256, 256), (640, 100)])
@pytest.mark.parametrize("shape", [(64, 64), (32, 96), (96, 32)])
@pytest.mark.parametrize(("crop_pct", "mode"), [(0.9, "center"), (1.0, "center"), (0.8, "squash")])
def test_crop_box_is_what_the_model_sees(size, shape, crop_pct, mode):
    model = recropped(crop_pct, mode, shape)
    box = crop_box(model, size)
    shown = seen(preprocess(model, smooth(*size), crop=True), size)
    # torchvision resizes to, and crops at, whole pixels of the small picture
    pixel = max((box[2] - box[0]) / shape[1], (box[3] - box[1]) / shape[0])
    assert box == pytest.approx(shown, abs=0.75 * pixel + 0.5)


def test_crop_box_never_leaves_the_picture():
    model = recropped(1.0)
    for width in range(60, 140):
        for height in (57, 100, 173):
            left, upper, right, lower = crop_box(model, (width, height))
            assert 0 <= left < right <= width
            assert 0 <= upper < lower <= height


def test_crop_mode_without_a_box():
    with pytest.raises(ValueError, match="crop_mode"):
        crop_box(recropped(0.9, "border"), (100, 100))


@pytest.mark.parametrize("image", [NOISE, torch.zeros(3, 8, 8), "photo.png", Path("photo.png")])
def test_preprocess_wants_a_picture(image):
    with pytest.raises(TypeError, match="image must be a PIL image"):
        preprocess(model_of("vit_tiny_patch16_224"), image)
