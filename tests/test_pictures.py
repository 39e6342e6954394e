"The drawings: what they compute is right, and what they say can be read."
import matplotlib
import matplotlib.pyplot as plt
import pytest
import torch
from matplotlib.patches import FancyBboxPatch, Rectangle

from nanochat_course.common import CourseError
from nanochat_course.labs import pictures as P

WORDS = "The cat sat on the mat .".split()
LITS = [(P.draw_pipeline, name) for row in P.PIPELINE for name in row]
LITS += [(f, name) for f, names in ((P.draw_model, P.MODEL), (P.draw_loop, P.LOOP), (P.draw_block, P.BLOCK)) for name in names]
DRAWINGS = {
    "heads": lambda: P.draw_heads(torch.eye(4).expand(4, 4, 4), groups=2),
    "one key head": lambda: P.draw_heads(torch.eye(4).expand(4, 4, 4), groups=1),
    "cache": lambda: P.draw_kv_cache(WORDS, 5, 9),
    "cache, window": lambda: P.draw_kv_cache(WORDS, 3, 12, window=2),
    "ring of 4": P.draw_ring, "ring of 2": lambda: P.draw_ring(2), "zero": P.draw_zero,
    "stretch": lambda: P.draw_stretch(torch.tensor([[1., 2.], [0., 1.]]), polar=True),
} | {f.__name__: lambda f=f: f({name for g, name in LITS if g is f}) for f, _ in LITS}


@pytest.fixture(autouse=True)
def no_windows():
    before = matplotlib.get_backend()
    plt.switch_backend("agg")
    yield
    plt.close("all")
    plt.switch_backend(before)


def words_of(fig):
    "Every visible text of a figure, with its extent."
    fig.canvas.draw()
    for text in fig.findobj(matplotlib.text.Text):
        if text.get_text().strip() and text.get_visible(): yield text, text.get_window_extent()


@pytest.mark.parametrize("name", DRAWINGS)
def test_a_drawing_can_be_read(name):
    "No letter below 8 points, none outside the sheet or its box, contrast of 4.5 with what lies under it."
    DRAWINGS[name]()
    fig, seen = plt.gcf(), 0
    patches = [p for ax in fig.axes for p in ax.patches if isinstance(p, (Rectangle, FancyBboxPatch)) and p.get_facecolor()[3]]
    for text, extent in words_of(fig):
        seen += 1
        assert text.get_fontsize() >= 8, text
        assert fig.bbox.x0 - 1 <= extent.x0 and extent.x1 <= fig.bbox.x1 + 1, f"{text} leaves the sheet"
        assert fig.bbox.y0 - 1 <= extent.y0 and extent.y1 <= fig.bbox.y1 + 1, f"{text} leaves the sheet"
        middle = (extent.x0 + extent.x1) / 2, (extent.y0 + extent.y1) / 2
        under = [p for p in patches if p.get_window_extent().contains(*middle)]
        ground = under[-1].get_facecolor() if under else P.PAPER
        assert P.contrast(text.get_color(), ground) >= 4.5, f"{text} on {ground}"
        assert P.contrast(P.turned(text.get_color()), P.turned(ground)) >= 4.5, f"{text} on {ground}, on a dark page"
        if under:
            frame = under[-1].get_window_extent()
            assert frame.x0 - 1 <= extent.x0 and extent.x1 <= frame.x1 + 1, f"{text} is wider than its box"
    assert seen >= 4 and matplotlib.colors.to_hex(fig.get_facecolor()) == P.PAPER, "opaque: a dark page does not shine through"


@pytest.mark.parametrize("name", DRAWINGS)
def test_words_do_not_lie_on_each_other(name):
    DRAWINGS[name]()
    extents = list(words_of(plt.gcf()))
    for i, (a, first) in enumerate(extents):
        for b, second in extents[:i]:
            both = matplotlib.transforms.Bbox.intersection(first, second)
            assert both is None or both.width < 2 or both.height < 2, f"{a} and {b}"


@pytest.mark.parametrize("draw,name", LITS)
def test_what_is_named_is_lit(draw, name):
    draw(name)
    fills = [matplotlib.colors.to_hex(p.get_facecolor()) for p in plt.gca().patches]
    lines = [matplotlib.colors.to_hex(line.get_color()) for line in plt.gca().lines]
    expected = 2 if name == "norm" else 1
    assert fills.count(P.LIT) == (0 if name == "stream" else expected)
    assert ("#c2410c" in lines) == (name == "stream")


def test_contrast_is_wcag():
    "The guideline's own examples: 21 and 1; and #767676, the lightest grey that passes on white."
    assert P.contrast("white", "black") == pytest.approx(21) and P.contrast("#123456", "#123456") == 1
    assert P.contrast("#767676", "white") >= 4.5 > P.contrast("#777777", "white")


@pytest.mark.parametrize("W", [2, 3, 4, 8])
def test_the_ring_sums_and_sends_to_one_neighbour(W):
    x = torch.randn(W, W, dtype=torch.float64, generator=torch.Generator().manual_seed(W))
    states = P.ring_all_reduce(x)
    assert len(states) == 2 * W - 1 and torch.equal(states[0], x)
    assert torch.allclose(states[-1], x.sum(0).expand(W, W), atol=1e-12)
    for before, after in zip(states, states[1:]):
        assert ((before != after).sum(1) == 1).all(), "each rank receives one piece in each step"
    done = (states[W - 1] - x.sum(0)).abs() < 1e-12
    assert (done.sum(0) == 1).all() and (done.sum(1) == 1).all(), "half way each rank holds one sum, and each sum lies on one rank"


def test_the_ellipse_is_the_matrix():
    G = torch.tensor([[0.3, -1.2], [2.0, 0.7]], dtype=torch.float64)
    shapes = list(P.circle_through(G).values())
    assert torch.allclose(shapes[-1], shapes[0] @ G.T, atol=1e-12)
    assert torch.allclose(shapes[1].norm(dim=1), torch.ones(200, dtype=torch.float64)), "a turned circle is a circle"


@pytest.mark.parametrize("wrong", [lambda: P.draw_model("cache"), lambda: P.draw_heads(torch.ones(6, 3, 3)), lambda: P.draw_ring(9),
                                   lambda: P.draw_kv_cache(WORDS, 2, 3), lambda: P.draw_zero(1)])
def test_what_cannot_be_drawn_is_refused(wrong):
    with pytest.raises(CourseError) as error: wrong()
    assert "\n" not in str(error.value)
