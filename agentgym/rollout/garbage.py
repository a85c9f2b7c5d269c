"""How often Python looks for garbage while episodes are played."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

OBJECTS = 10_000  #: allocated since the last look before the next one


@contextmanager
def looked_for_less_often() -> Iterator[None]:
    """Python's default is to look after 700 allocations, which a few turns make.

    With hundreds of episodes under way nearly all of that is still in use, so that each look finds nothing and is
    repeated over what grew older; it took a fourth of a turn. A limit that somebody chose is left as it is.
    """
    before = gc.get_threshold()
    if before[0] != 700:
        yield
        return
    gc.set_threshold(OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
