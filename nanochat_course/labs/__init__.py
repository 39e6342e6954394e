"What only demonstrations, races and tests need. It may import every module of the package; none of them imports it."
import sys
from importlib.machinery import SOURCE_SUFFIXES, FileFinder
from nanochat_course import _Loader

# As for the package itself: the comments of signatures are added to the docstrings.
if isinstance(__loader__, _Loader): sys.path_importer_cache[__path__[0]] = FileFinder(__path__[0], (_Loader, SOURCE_SUFFIXES))
