import pytest
import torch

from influbench.errors import UserError
from influbench.models import halving
from influbench.models.halving import Halves


def device(room: int, seen: list[int]):
    def run(items):
        seen.append(len(items))
        if len(items) > room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [2 * item for item in items]

    return run


def test_what_does_not_fit_is_halved_in_order_and_not_tried_again():
    seen: list[int] = []
    halves = Halves("")
    found = [value for _, part in halves(range(10), device(3, seen)) for value in part]
    assert found == [2 * n for n in range(10)]
    assert seen == [10, 5, 2, 3, 2, 3]
    seen.clear()
    assert [len(part) for part, _ in halves(range(10), device(3, seen))] == [2, 3, 2, 3]
    assert seen == [2, 3, 2, 3]


def test_one_item_waits_for_other_processes_and_then_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
):
    waited: list[float] = []
    monkeypatch.setattr(halving.time, "sleep", waited.append)
    monkeypatch.setattr(halving, "crowded", lambda: True)
    seen: list[int] = []

    def crowded(items):
        return device(len(waited) // 2, seen)(items)

    assert [list(part) for part, _ in Halves("")(range(2), crowded)] == [[0], [1]]
    assert waited == [2.0, 4.0]
    with pytest.raises(UserError, match="no memory left for a batch of one: buy a larger one"):
        list(Halves("buy a larger one")(range(2), device(0, seen)))
    assert waited[2:] == list(halving.PATIENCE_S)
    monkeypatch.setattr(halving, "crowded", lambda: False)
    with pytest.raises(UserError, match="no memory left"):
        list(Halves("")(range(2), device(0, seen)))
    assert waited[2:] == list(halving.PATIENCE_S)


def test_other_errors_pass():
    def broken(_):
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        list(Halves("")(range(2), broken))
