import time

import pytest
import torch

from losses.memory_bank import ClasswiseBank, FlatBank, class_means, select_class_pixels


def rows_of(values, dim=2):
    """Recognisable rows: the number v becomes (v, v, ...)."""
    return torch.as_tensor(values, dtype=torch.float32)[:, None].expand(-1, dim).contiguous()


def kept(bank, ring=0):
    """The numbers in a ring, in the order of its slots, as far as it is filled."""
    count = int(bank.queue_count[ring])
    return bank.queue[ring * bank.size : ring * bank.size + count, 0].tolist()


def test_rows_go_to_their_class_in_order_and_masked_rows_are_dropped():
    bank = ClasswiseBank(3, 4, 2, torch.float32)
    classes = torch.tensor([2, 0, 2, 0, 99])
    bank.enqueue(rows_of([1, 2, 3, 4, 5]), classes, torch.tensor([True, True, True, False, False]))
    assert [kept(bank, y) for y in range(3)] == [[2], [], [1, 3]]
    assert bank.queue_ptr.tolist() == [1, 0, 2] and bank.queue_count.tolist() == [1, 0, 2]
    assert bank.queue[-1].abs().sum() == 0  # what is dropped leaves no trace


def test_ring_wraps_without_gap_or_stale_row():
    bank = FlatBank(5, 2, torch.float32)
    for start in (0, 3, 6):
        bank.enqueue(rows_of([start, start + 1, start + 2]))
    assert kept(bank) == [5, 6, 7, 8, 4]
    assert bank.queue_ptr.tolist() == [4] and bank.queue_count.tolist() == [5]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_ring_equals_a_list_whatever_the_sizes_of_writes(size):
    bank, history = ClasswiseBank(2, size, 2, torch.float32), [[], []]
    generator = torch.Generator().manual_seed(size)
    number = 0
    for length in (1, 5, 0, 2, 9, 3, 20):
        classes = torch.randint(0, 2, (length,), generator=generator)
        valid = torch.rand(length, generator=generator) > 0.3
        bank.enqueue(rows_of(range(number, number + length)), classes, valid)
        for i in range(length):
            if valid[i]:
                history[classes[i]].append(number + i)
        number += length
        for y in range(2):
            assert sorted(kept(bank, y)) == history[y][-size:]
            assert bank.queue_ptr[y] == len(history[y]) % size


def test_rows_never_written_are_never_drawn():
    bank = ClasswiseBank(3, 10, 2, torch.float32)
    bank.enqueue(rows_of([1, 2, 3]), torch.tensor([0, 0, 2]), torch.ones(3, dtype=torch.bool))
    keys, mask = bank.draw(4, 7)
    drawn = [keys.view(3, 4, 2)[y][mask.view(3, 4)[y]][:, 0].tolist() for y in range(3)]
    assert drawn == [[1, 2], [], [3]] and keys.shape == (12, 2)
    assert not FlatBank(5, 2).draw(3, 0)[1].any()


def test_draw_larger_than_the_bank_gives_each_row_once():
    bank = FlatBank(3, 2, torch.float32)
    bank.enqueue(rows_of([1, 2, 3]))
    keys, mask = bank.draw(8, 0)
    assert keys[mask][:, 0].tolist() == [1, 2, 3]


@pytest.mark.parametrize(("count", "draw"), [(10, 4), (7, 6), (10, 10), (3, 1), (1000, 37)])
def test_draws_do_not_repeat_and_every_row_has_the_same_chance(count, draw):
    bank = FlatBank(1000, 2, torch.float32)
    bank.enqueue(rows_of(range(count)))
    times, rounds = torch.zeros(count), 3000
    for iteration in range(rounds):
        keys, mask = bank.draw(draw, 5, iteration)
        index = keys[:, 0].long()
        assert mask.all() and index.unique().numel() == draw
        times[index] += 1
    chance = draw / count
    spread = (chance * (1 - chance) / rounds) ** 0.5
    assert (times / rounds - chance).abs().max() <= 5 * spread + 1e-6


def test_draws_depend_on_keys_and_class_alone():
    banks = [ClasswiseBank(2, 50, 2, torch.float32) for _ in range(2)]
    for bank in banks:
        classes = torch.arange(100) % 2
        bank.enqueue(rows_of(range(100)), classes, torch.ones(100, dtype=torch.bool))
    first, second = (bank.draw(5, 1, 2)[0] for bank in banks)
    assert torch.equal(first, second)
    assert not torch.equal(first, banks[0].draw(5, 1, 3)[0])
    slots = (first[:5, 0] // 2, first[5:, 0] // 2)
    assert not torch.equal(*slots)  # classes draw different slots


def test_draws_are_copies():
    bank = FlatBank(4, 2, torch.float32)
    bank.enqueue(rows_of([1, 2]))
    keys, _ = bank.draw(2, 0)
    bank.enqueue(rows_of([3, 4, 5, 6]))
    assert keys[:, 0].tolist() == [1, 2]


def test_large_bank_is_built_at_once():
    start = time.perf_counter()
    bank = ClasswiseBank(150, 20000, 512)
    assert time.perf_counter() - start < 1
    assert bank.queue.dtype == torch.bfloat16 and bank.queue.shape == (150 * 20000 + 1, 512)
    assert bank.queue[::500_000].abs().sum() == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_state_is_restored(dtype):
    bank, other = FlatBank(4, 2, dtype), FlatBank(4, 2, dtype)
    bank.enqueue(rows_of([1, 2, 3, 4, 5]))
    other.load_state_dict(bank.state_dict())
    bank.enqueue(rows_of([6]))
    other.enqueue(rows_of([6]))
    assert torch.equal(bank.queue, other.queue) and kept(other) == [5, 6, 3, 4]


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        FlatBank(0, 2)
    with pytest.raises(ValueError, match="bfloat16, float16, float32"):
        FlatBank(1, 2, torch.float64)


def test_chosen_pixels_belong_to_their_class_and_are_random():
    labels = torch.randint(0, 5, (3, 400))
    labels[labels == 4] = 255
    labels[1, :] = 255
    labels[2, :] = 1
    images = torch.tensor([4, 5, 6])
    position, classes, valid = select_class_pixels(labels, 4, 16, images, 1, 2)
    assert position.shape == classes.shape == valid.shape == (3, 64)
    assert torch.equal(labels.gather(1, position)[valid], classes[valid])
    for n, expected in enumerate([[16] * 4, [0] * 4, [0, 16, 0, 0]]):
        assert torch.bincount(classes[n][valid[n]], minlength=4).tolist() == expected
        assert position[n][valid[n]].unique().numel() == sum(expected)
    assert position[2][valid[2]].max() > 100  # not the first positions of the image
    again = select_class_pixels(labels[1:], 4, 16, images[1:], 1, 2)
    assert torch.equal(again[0], position[1:])  # depends on the image's index, not on who shares the batch
    other = select_class_pixels(labels, 4, 16, images, 1, 3)
    assert not torch.equal(other[0][0], position[0])


def test_every_pixel_has_the_same_chance():
    labels = torch.zeros(2000, 20, dtype=torch.int64)
    position, _, valid = select_class_pixels(labels, 1, 5, torch.arange(2000), 9)
    assert valid.all() and ((torch.bincount(position.flatten(), minlength=20) / 2000 - 0.25).abs() < 0.05).all()


def test_fewer_positions_than_slots():
    position, classes, valid = select_class_pixels(torch.tensor([[1, 255, 0]]), 2, 16, torch.tensor([0]), 1)
    assert valid.sum() == 2 and position.shape == (1, 3)
    assert dict(zip(classes[valid].tolist(), position[valid].tolist(), strict=True)) == {0: 2, 1: 0}


def test_class_means():
    rows, labels = torch.randn(2, 6, 3), torch.tensor([[0, 0, 2, 255, 2, 2], [1, 1, 1, 1, 1, 255]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means, present = class_means(rows, labels, 3)
    assert present.tolist() == [[True, False, True], [False, True, False]]
    torch.testing.assert_close(means[0, 2], rows[0, [2, 4, 5]].mean(0))
    torch.testing.assert_close(means[1, 1], rows[1, :5].mean(0))
    assert means[0, 1].abs().sum() == 0
