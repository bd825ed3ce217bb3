"""Pictures of several runs on one sheet."""

from dataclasses import dataclass
from pathlib import Path

HEIGHT, GAP, TEXT_HEIGHT = 256, 12, 22
BACKGROUND, FOREGROUND = (32, 32, 32), (230, 230, 230)


@dataclass(frozen=True)
class Row:
    """A title and pictures; the first `given` of them went in, the others came out."""

    title: str
    pictures: list[Path]
    given: int = 0


def write_sheet(path: Path, rows: list[Row]) -> Path:
    """Write the rows below one another, all pictures of one height, an arrow between given and made; returns `path`."""
    from PIL import Image, ImageDraw

    lines = [[_scaled(Image.open(picture)) for picture in row.pictures] for row in rows]
    widths = [sum(image.width + GAP for image in line) + 2 * GAP for line in lines]  # with room for the arrow
    row_height = TEXT_HEIGHT + HEIGHT + GAP
    sheet = Image.new("RGB", (GAP + max(widths), GAP + row_height * len(rows)), BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, (row, line) in enumerate(zip(rows, lines, strict=True)):
        x, y = GAP, GAP + number * row_height
        draw.text((x, y), row.title, FOREGROUND)
        for index, image in enumerate(line):
            if row.given and index == row.given:
                middle = y + TEXT_HEIGHT + HEIGHT // 2
                draw.polygon([(x, middle - GAP), (x, middle + GAP), (x + GAP, middle)], FOREGROUND)
                x += 2 * GAP
            sheet.paste(image, (x, y + TEXT_HEIGHT))
            x += image.width + GAP
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path)
    return path


def _scaled(image):
    return image.convert("RGB").resize((max(1, round(image.width * HEIGHT / image.height)), HEIGHT))
