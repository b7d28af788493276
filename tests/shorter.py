"""The lab's data sets, shorter: a shorter one is the beginning of a longer one."""

from contextlib import contextmanager
from dataclasses import replace

import pytest

from nurture.lab.datasets import DATASETS, open_dataset


@contextmanager
def shorter(sizes):
    """In this process alone, as long as it lasts: `sizes` gives the rows of each data set that is to have fewer."""
    with pytest.MonkeyPatch.context() as patch:
        for name, size in sizes.items():
            patch.setitem(DATASETS, name, replace(DATASETS[name], size=size))
        open_dataset.cache_clear()
        yield
    open_dataset.cache_clear()
