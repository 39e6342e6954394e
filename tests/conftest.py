"Every test session writes under a temporary folder; real data is optional."
import os, signal, tempfile
from pathlib import Path

os.environ["NANOCHAT_COURSE_DIR"] = tempfile.mkdtemp(prefix="nanochat_course_test_")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if "PYTEST_XDIST_WORKER" in os.environ: os.environ.setdefault("OMP_NUM_THREADS", "1")   # `make test` runs two files at a time: a core for each
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN: signal.signal(signal.SIGINT, signal.default_int_handler)   # a job in the background is deaf to Ctrl-C, and so would be all that it starts

import pytest


@pytest.fixture(scope="session")
def test_data():
    "Folder of real text and task data; tests that need it are skipped without it."
    folder = os.environ.get("NANOCHAT_COURSE_TEST_DATA")
    if not folder or not Path(folder).is_dir(): pytest.skip("set NANOCHAT_COURSE_TEST_DATA to a folder with the real test data")
    return Path(folder)


# Longest first, so that two workers end together.
SLOW = ["test_pipeline", "test_zero2", "test_zero3", "test_site", "test_tasks", "test_speedrun", "test_runs", "test_nanogpt"]


def pytest_collection_modifyitems(items):
    "The files of SLOW begin; the others keep their order, and so do the tests within a file."
    rank = {name: i for i, name in enumerate(SLOW)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(SLOW)))
