"Every test session writes under a temporary folder; real data is optional."
import os, random, signal, tempfile
from pathlib import Path

os.environ["NANOCHAT_COURSE_DIR"] = tempfile.mkdtemp(prefix="nanochat_course_test_")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")               # no processes that wait for more to compile, each with a torch of its own
if "PYTEST_XDIST_WORKER" in os.environ: os.environ.setdefault("OMP_NUM_THREADS", "1")   # `make test` runs two files at a time: a core for each
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)   # a job in the background is deaf to Ctrl-C, and so would be all that it starts

import pytest

import forked

if "PYTEST_XDIST_WORKER" in os.environ: forked.start_server()                # it imports while the tests are collected


@pytest.fixture(scope="session")
def test_data():
    "Folder of real text and task data; tests that need it are skipped without it."
    folder = os.environ.get("NANOCHAT_COURSE_TEST_DATA")
    if not folder or not Path(folder).is_dir(): pytest.skip("set NANOCHAT_COURSE_TEST_DATA to a folder with the real test data")
    return Path(folder)


# Longest first, so that two workers end together.
SLOW = ["test_pipeline", "test_zero2", "test_zero3", "test_site", "test_tasks", "test_speedrun", "test_runs", "test_nanogpt"]


def pytest_addoption(parser):
    parser.addoption("--shuffle", type=int, metavar="SEED", help="draw the order of the files, and of the tests in each, with this seed")


def pytest_collection_modifyitems(config, items):
    "The files of SLOW begin; the others keep their order, and so do the tests within a file. Or all in a random order."
    rank, seed = {name: i for i, name in enumerate(SLOW)}, config.getoption("shuffle")
    if seed is not None:
        draw = random.Random(seed)
        draw.shuffle(items)
        rank = {stem: draw.random() for stem in sorted({item.path.stem for item in items})}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))
