"""groups.py: which pairs share connections."""

from hypothesis import given, strategies as st

from ingester.connection.grouping import place, split

sizes = st.lists(st.integers(0, 12), max_size=6)


@given(sizes, st.integers(0, 60))
def test_no_group_is_too_large_nothing_is_lost_and_few_are_opened(sizes, count):
    """Groups of at most 10; some may be above it already, and get nothing."""
    names = [b"n%d" % number for number in range(count)]
    placed = place(sizes, names, 10)
    assert sorted(name for group in placed for name in group) == sorted(names)
    after = [size + len(group) for size, group in zip([*sizes, *[0] * len(placed)], placed, strict=False)]
    assert all(total <= 10 for total, group in zip(after, placed, strict=True) if group)
    room = sum(max(0, 10 - size) for size in sizes)
    opened = len(placed) - len(sizes)
    assert opened == -(-max(0, count - room) // 10)
    new = after[len(sizes) :]
    assert not new or max(new) - min(new) <= 1


@given(sizes, st.integers(1, 30))
def test_the_emptiest_groups_are_filled_first(sizes, count):
    placed = place(sizes, [b"n%d" % number for number in range(count)], 10)
    after = [size + len(group) for size, group in zip(sizes, placed, strict=False)]
    with_room = [total for total in after if total < 10]
    grown = [total for total, group in zip(after, placed, strict=False) if group]
    assert not grown or not with_room or max(grown) <= min(with_room) + 1


def test_every_pair_of_the_exchange_fits_on_few_connections_of_equal_size():
    names = [b"n%d" % number for number in range(1500)]
    assert [len(group) for group in split(names, 1024)] == [750, 750]
    assert [len(group) for group in place([44], names, 1024)] == [980, 520]
