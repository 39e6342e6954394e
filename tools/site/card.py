"The picture that a link to the site shows: python tools/site/card.py writes tools/site/card.png."
from pathlib import Path

import matplotlib
matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

HERE = Path(__file__).resolve().parent


def main():
    figure = plt.figure(figsize=(12, 6.3), dpi=100, facecolor="#15181c")
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
