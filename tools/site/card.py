"""The pictures that a link to the site shows, 1200 x 630.

    python tools/site/card.py       # tools/site/card.png, the site's own; the chapters' are made with the site, from its map
"""
import textwrap
from pathlib import Path

import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image, ImageDraw, ImageFont

HERE = Path(__file__).resolve().parent
GROUND, FONTS = "#15181c", Path(matplotlib.get_data_path()) / "fonts" / "ttf"
MAP = (784, 130, 1176, 520)                                # where the attention map stands in the site's card


def font(size, bold=False): return ImageFont.truetype(str(FONTS / ("DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf")), size)


def chapter_card(base, number, title, description):
    "A chapter's card: number, title and description, beside the map of the site's own."
    card = Image.new("RGB", base.size, GROUND)
    card.paste(base.crop(MAP), MAP[:2])
    draw = ImageDraw.Draw(card)
    draw.text((60, 60), f"nanochat_course · {number}", fill="#6db3ec", font=font(30))
    y = 150
    for size, bold, colour, width, words in ((58, True, "#ffffff", 19, title), (31, False, "#d9dee4", 38, description)):
        for line in textwrap.wrap(words, width):
            draw.text((60, y), line, fill=colour, font=font(size, bold))
            y += int(size * 1.3)
        y += 24
    return card


def address(site, stem):
    "Where the card of a page will lie; pages beside the chapters share one."
    return f"{site['site-url']}/{f'cards/{stem}' if stem[2:3] == '_' else 'card'}.png"


def write_cards(chapters, folder):
    "One card for each chapter: {page: (title, description)}."
    folder.mkdir(exist_ok=True)
    base = Image.open(HERE / "card.png").convert("RGB")
    for stem, (title, description) in chapters.items():
        if stem[:2].isdigit(): chapter_card(base, stem[:2], title, description).quantize(64).save(folder / f"{stem}.png")


def main():
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor=GROUND)
    axes = figure.add_axes([0.62, 0.12, 0.33, 0.76])
    rng = np.random.default_rng(7)                         # a causal attention map
    weights = np.tril(np.exp(rng.normal(size=(12, 12)) * 1.3))
    axes.imshow(np.ma.masked_equal(weights / weights.sum(1, keepdims=True), 0) ** 0.6, cmap="Blues_r", vmin=-0.25, vmax=1.0)
    axes.axis("off")
    figure.text(0.05, 0.66, "nanochat_course", color="#ffffff", size=44, weight="bold")
    figure.text(0.05, 0.5, "How ChatGPT is really built,\nin notebooks that train it", color="#d9dee4", size=25, va="center")
    figure.text(0.05, 0.24, "Text → tokenizer → pretraining → chat → RL.\nOn a laptop in minutes; written for eight H100s.", color="#93a0ae", size=17, va="center")
    figure.savefig(HERE / "card.png", facecolor=figure.get_facecolor())


if __name__ == "__main__": main()
