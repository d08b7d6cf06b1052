import time
from pathlib import Path

import pytest
import torch

from losses.modules.memory_bank import MemoryBank
from losses.modules.sampling import class_means, entry_slots, select_class_pixels, select_classes


def rows_of(values, dim=2):
    """Recognisable rows: the number v becomes (v, v, ...)."""
    return torch.as_tensor(values, dtype=torch.float32)[:, None].expand(-1, dim).contiguous()


def kept(bank, ring=0):
    count = int(bank.queue_count[ring])
    return bank.queue[ring * bank.size : ring * bank.size + count, 0].tolist()


def test_rows_go_to_their_class_in_order_and_masked_rows_are_dropped():
    bank = MemoryBank(3, 4, 2, torch.float32)
    classes = torch.tensor([2, 0, 2, 0, 99])
    bank.enqueue(rows_of([1, 2, 3, 4, 5]), classes, torch.tensor([True, True, True, False, False]))
    assert [kept(bank, y) for y in range(3)] == [[2], [], [1, 3]]
    assert bank.queue_ptr.tolist() == [1, 0, 2] and bank.queue_count.tolist() == [1, 0, 2]
    assert bank.queue[-1].abs().sum() == 0  # what is dropped leaves no trace


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_ring_equals_a_list_whatever_the_sizes_of_writes(size):
    bank, history = MemoryBank(2, size, 2, torch.float32), [[], []]
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
    bank = MemoryBank(3, 10, 2, torch.float32)
    bank.enqueue(rows_of([1, 2, 3]), torch.tensor([0, 0, 2]), torch.ones(3, dtype=torch.bool))
    keys, mask = bank.sample(4, 7)
    drawn = [keys.view(3, 4, 2)[y][mask.view(3, 4)[y]][:, 0].tolist() for y in range(3)]
    assert drawn == [[1, 2], [], [3]] and keys.shape == (12, 2)
    keys, mask = bank.sample(12, 0)  # larger than the bank: each row once
    assert keys[mask][:, 0].tolist() == [1, 2, 3]
    assert not MemoryBank(1, 5, 2).sample(3, 0)[1].any()


@pytest.mark.parametrize(("count", "draw"), [(10, 4), (7, 6), (10, 10), (3, 1), (1000, 37)])
def test_draws_do_not_repeat_and_every_row_has_the_same_chance(count, draw):
    queues, iterations = 100, 30
    bank = MemoryBank(queues, 1000, 1, torch.float32)
    bank.queue[:-1] = torch.arange(1000.0).repeat(queues)[:, None]
    bank.queue_count.fill_(count)
    times, rounds = torch.zeros(count), queues * iterations
    for iteration in range(iterations):
        keys, mask = bank.sample(draw, 5, iteration)
        index = keys[:, 0].long()
        assert mask.all() and (index.view(queues, draw).sort().values.diff() > 0).all()
        times += index.bincount(minlength=count)
    chance = draw / count
    spread = (chance * (1 - chance) / rounds) ** 0.5
    assert (times / rounds - chance).abs().max() <= 5 * spread + 1e-6


def test_draws_depend_on_keys_and_class_alone():
    banks = [MemoryBank(2, 50, 2, torch.float32) for _ in range(2)]
    for bank in banks:
        classes = torch.arange(100) % 2
        bank.enqueue(rows_of(range(100)), classes, torch.ones(100, dtype=torch.bool))
    first, second = (bank.sample(5, 1, 2)[0] for bank in banks)
    assert torch.equal(first, second)
    assert not torch.equal(first, banks[0].sample(5, 1, 3)[0])
    slots = (first[:5, 0] // 2, first[5:, 0] // 2)
    assert not torch.equal(*slots)  # classes draw different slots


def test_draws_are_copies():
    bank = MemoryBank(1, 4, 2, torch.float32)
    bank.enqueue(rows_of([1, 2]))
    keys, _ = bank.sample(2, 0)
    bank.enqueue(rows_of([3, 4, 5, 6]))
    assert keys[:, 0].tolist() == [1, 2]


def test_large_bank_is_built_at_once():
    def resident_mib():
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 2**20

    resident = resident_mib()
    start = time.perf_counter()
    bank = MemoryBank(150, 20000, 512)
    assert time.perf_counter() - start < 1
    assert resident_mib() - resident < 300  # of 2930 MiB when it is full
    assert bank.queue.dtype == torch.bfloat16 and bank.queue.shape == (150 * 20000 + 1, 512)
    assert bank.queue[::500_000].abs().sum() == 0


def test_wrong_sizes_are_refused():
    with pytest.raises(ValueError, match="at least one"):
        MemoryBank(1, 0, 2)
    with pytest.raises(ValueError, match="bfloat16, float16, float32"):
        MemoryBank(1, 1, 2, torch.float64)


def test_chosen_pixels_belong_to_their_class_and_are_random():
    labels = torch.randint(0, 5, (3, 400))
    labels[labels == 4] = 255
    labels[1, :] = 255
    labels[2, :] = 1
    images = torch.tensor([4, 5, 6])
    position, classes, valid = select_class_pixels(labels, 4, 16, 64, images, 1, 2)
    assert position.shape == classes.shape == valid.shape == (3, 64)
    assert torch.equal(labels.gather(1, position)[valid], classes[valid])
    for n, expected in enumerate([[16] * 4, [0] * 4, [0, 16, 0, 0]]):
        assert torch.bincount(classes[n][valid[n]], minlength=4).tolist() == expected
        assert position[n][valid[n]].unique().numel() == sum(expected)
    assert position[2][valid[2]].max() > 100  # not the first positions of the image
    again = select_class_pixels(labels[1:], 4, 16, 64, images[1:], 1, 2)
    assert torch.equal(again[0], position[1:])  # depends on the image's index, not on who shares the batch
    other = select_class_pixels(labels, 4, 16, 64, images, 1, 3)
    assert not torch.equal(other[0][0], position[0])


def test_every_pixel_has_the_same_chance():
    labels = torch.zeros(2000, 20, dtype=torch.int64)
    position, _, valid = select_class_pixels(labels, 1, 5, 5, torch.arange(2000), 9)
    assert valid.all() and ((torch.bincount(position.flatten(), minlength=20) / 2000 - 0.25).abs() < 0.05).all()


def test_fewer_positions_than_slots():
    position, classes, valid = select_class_pixels(torch.tensor([[1, 255, 0]]), 2, 16, 32, torch.tensor([0]), 1)
    assert valid.sum() == 2 and position.shape == (1, 3)
    assert dict(zip(classes[valid].tolist(), position[valid].tolist(), strict=True)) == {0: 2, 1: 0}


def test_too_few_slots_are_shared_evenly_and_fairly():
    labels = torch.arange(1000).expand(300, -1) % 10
    labels = torch.where(torch.arange(1000) == 7, 10, labels)  # class 10 has one pixel
    images = torch.arange(300)
    position, classes, valid = select_class_pixels(labels, 12, 16, 33, images, 4)
    assert valid.all() and torch.equal(labels.gather(1, position), classes)
    counts = torch.stack([torch.bincount(row, minlength=12) for row in classes])
    assert counts[:, 10].eq(1).all() and counts[:, 11].eq(0).all() and counts[:, :10].sum(1).eq(32).all()
    assert counts[:, :10].min() == 3 and counts[:, :10].max() == 4
    more = (counts[:, :10] == 4).float().mean(0)  # two of ten classes of every image
    assert (more - 0.2).abs().max() < 0.12
    few, _, _ = select_class_pixels(labels[:3], 12, 16, 33, images[:3], 4)
    assert torch.equal(few, position[:3])


def test_present_classes_find_slots_and_the_choice_among_too_many_is_fair():
    present = torch.zeros(400, 9, dtype=torch.bool)
    present[:, [1, 4, 5, 8]] = True
    images = torch.arange(400)
    classes, valid = select_classes(present, 6, images, 3)
    assert classes.shape == (400, 6) and valid.sum(1).eq(4).all()
    assert all(set(row[mask].tolist()) == {1, 4, 5, 8} for row, mask in zip(classes, valid, strict=True))
    classes, valid = select_classes(present, 2, images, 3)
    assert valid.all() and present.gather(1, classes).all()
    share = torch.bincount(classes.flatten(), minlength=9) / 400
    assert (share[[1, 4, 5, 8]] - 0.5).abs().max() < 0.12
    assert torch.equal(select_classes(present[7:9], 2, images[7:9], 3)[0], classes[7:9])
    assert select_classes(present, 20, images)[0].shape == (400, 9)


def test_slots_at_the_published_sizes():
    assert entry_slots(19, 64 * 128, 16) == (304, 19)  # Cityscapes: 16 pixels and a region of every class
    assert entry_slots(21, 64 * 64, 16) == (336, 21)  # VOC
    assert entry_slots(12, 8 * 12, 16) == (96, 12)  # a small map: all its pixels
    assert entry_slots(150, 64 * 64, 16) == (326, 46)


def test_class_means():
    rows, labels = torch.randn(2, 6, 3), torch.tensor([[0, 0, 2, 255, 2, 2], [1, 1, 1, 1, 1, 255]])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        means, present = class_means(rows, labels, 3)
    assert present.tolist() == [[True, False, True], [False, True, False]]
    torch.testing.assert_close(means[0, 2], rows[0, [2, 4, 5]].mean(0))
    torch.testing.assert_close(means[1, 1], rows[1, :5].mean(0))
    assert means[0, 1].abs().sum() == 0
