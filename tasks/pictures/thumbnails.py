"""``run.py pictures thumbnails [PART OF A TITLE]``: the workflows' thumbnails, each from a run of its workflow.

On the left what went in (or the picture that was made), on the right what came out.
"""

import io
import json
import tempfile
from pathlib import Path

from PIL import Image

from .. import INPUTS, WORKFLOWS
from ..host.server import Server
from ..workflows.catalogue import CATALOGUE
from ..workflows.convert import to_api
from ..workflows.results import add_pictures, save_picture

SIZE = (400, 300)  # width, height
# What the halves show, where it is not the picture that the workflow loads and the depth of what it makes.
HALVES = {
    "01": ("image", "depth"),
    "03": ("given", "image"),
    "05": ("given", "image"),
    "06": ("given", "image"),
    "07": ("given", "from the side"),
    "14": ("image", "depth"),
    "15": ("depth", "from the side"),
    "08": ("image", "depth"),
}


def halves_of(server: Server, title: str) -> list[Image.Image]:
    """The two pictures of a workflow's thumbnail."""
    info = server.object_info()
    prompt = to_api(json.loads((WORKFLOWS / f"{title}.json").read_text(encoding="utf-8")), info)
    pictures = add_pictures(prompt, info, **({"far": 0.0} if title[:2] == "07" else {}))  # in metres
    pictures["image"] = next(([key, 0] for key, node in prompt.items() if node["class_type"] == "VAEDecode"), None)
    wanted = HALVES.get(title[:2], ("given", "depth"))
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


def joined(left: Image.Image, right: Image.Image) -> Image.Image:
    """The left half of one and the right half of the other, a white line between."""
    middle = SIZE[0] // 2
    canvas, other = (picture.convert("RGB").resize(SIZE, Image.Resampling.LANCZOS) for picture in (left, right))
    canvas.paste(other.crop((middle, 0, *SIZE)), (middle, 0))
    canvas.paste((255, 255, 255), (middle - 1, 0, middle + 1, SIZE[1]))
    return canvas


def main(arguments: list[str]) -> int:
    """Write the thumbnails; returns the exit status."""
    titles = [made.title for made in CATALOGUE if not arguments or arguments[0] in made.title]
    with tempfile.TemporaryDirectory() as base, Server(Path(base)) as server:
        for title in titles:
            path = WORKFLOWS / f"{title}.jpg"
            joined(*halves_of(server, title)).save(path, quality=85, optimize=True)
            print(f"{path}  {path.stat().st_size / 1024:.0f} kB")
    return 0
