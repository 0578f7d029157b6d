"""What a terminal shows of a search for ranks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from .._common.driver import Iterate
from .._common.progress import progress_bar

__all__ = ["watched"]


@contextmanager
def watched(start: str) -> Iterator[Callable[[Iterate], None]]:
    """A callback that shows a search from a start."""
    with progress_bar(desc=f"ranks, start {start}", unit=" steps", leave=False, patient=True,
                      mininterval=0.1) as bar:
        def show(iterate: Iterate) -> None:
            bar.set_postfix(error=f"{iterate.objective:.5f}", stage=iterate.stage,
                            ranks=" ".join(map(str, iterate.ranks or ())),
                            passes=f"{iterate.n_passes:.0f}", refresh=False)
            bar.update()

        yield show
