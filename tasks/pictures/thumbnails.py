"""``run.py pictures thumbnails [PART OF A TITLE]``: the workflows' thumbnails, each from a run of its workflow.

From left to right what went in (or the picture that was made) and what came out, each where it lies in the whole.
"""

import io
import json
import tempfile
from pathlib import Path

from PIL import Image, ImageOps

from .. import INPUTS, WORKFLOWS
from ..host.server import Server
from ..workflows.catalogue import CATALOGUE
from ..workflows.convert import to_api
from ..workflows.results import add_pictures, save_picture
from ..workflows.settings import FAR

SIZE = (400, 300)  # width, height
# What the parts show, where it is not the picture that the workflow loads and the depth of what it makes.
PARTS = {
    "01": ("image", "depth", "from the side"),
    "02": ("given", "depth", "from the side"),
    "03": ("given", "image"),
    "05": ("given", "image"),
    "06": ("given", "view"),
    "07": ("given", "depth", "from the side"),
    "08": ("image", "depth"),
    "14": ("image", "depth"),
    "15": ("depth", "from the side"),
}
GREY = ("03", "04", "09")  # where grey depth is what goes in, or what is wanted


def parts_of(server: Server, title: str) -> list[Image.Image]:
    """The pictures of a workflow's thumbnail."""
    info = server.object_info()
    prompt = to_api(json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8")), info)
    colour_map = "grey" if title[:2] in GREY else "turbo"
    pictures = add_pictures(prompt, info, 0.0 if title[:2] == "07" else FAR, colour_map)  # 07 is in metres
    added = (key for key, node in prompt.items() if node["class_type"] == "ModalityForcingAddView")
    pictures["view"] = next(([key, 3] for key in added), None)
    pictures["image"] = next(([key, 0] for key, node in prompt.items() if node["class_type"] == "VAEDecode"), None)
    wanted = PARTS.get(title[:2], ("given", "depth"))
    keys = {what: save_picture(prompt, info, pictures[what], "thumbnail") for what in wanted if what != "given"}
    outputs = server.run(prompt)
    made = {what: _opened(server, outputs[key]["images"][0]) for what, key in keys.items()}
    loaded = next((node["inputs"]["image"] for node in prompt.values() if node["class_type"] == "LoadImage"), None)
    return [made[what] if what in made else _on_grey(Image.open(INPUTS / loaded)) for what in wanted]


def _opened(server: Server, image: dict) -> Image.Image:
    return Image.open(io.BytesIO(server.view(image["filename"], image["subfolder"], image["type"])))


def _on_grey(picture: Image.Image) -> Image.Image:
    """Holes grey."""
    picture = picture.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, (128, 128, 128, 255)), picture)


def joined(pictures: list[Image.Image]) -> Image.Image:
    """Strips of equal width, each from its own place in one of the pictures; white lines between."""
    width, height = SIZE
    canvas = Image.new("RGB", SIZE)
    for number, picture in enumerate(pictures):
        left, right = (round(width * end / len(pictures)) for end in (number, number + 1))
        fitted = ImageOps.fit(picture.convert("RGB"), SIZE, Image.Resampling.LANCZOS)
        canvas.paste(fitted.crop((left, 0, right, height)), (left, 0))
        if number:
            canvas.paste((255, 255, 255), (left - 1, 0, left + 1, height))
    return canvas


def main(arguments: list[str]) -> int:
    """Write the thumbnails; returns the exit status."""
    titles = [made.title for made in CATALOGUE if not arguments or arguments[0] in made.title]
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        for title in titles:
            path = WORKFLOWS / f"{title}.jpg"
            joined(parts_of(server, title)).save(path, quality=85, optimize=True)
            print(f"{path}  {path.stat().st_size / 1024:.0f} kB")
    return 0
