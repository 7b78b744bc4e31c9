"""Which ids still belong to a count that the exchange has restarted."""

from ingester.sequence.previous_count import Belongs, PreviousCount


def test_a_connection_brings_the_old_count_until_its_ids_fall_after_the_last_one():
    previous = PreviousCount(range(1000, 1100), 1099, 0, past=["a"])
    assert previous.belongs(1050, 30, "a", 1049) is Belongs.NEW
    assert previous.belongs(1050, 30, "b", 1049) is Belongs.OLD
    assert not previous.fell("b", 1050)  # a wrong id, not the restart
    assert previous.belongs(1051, 30, "b", 1050) is Belongs.OLD
    assert previous.fell("b", 1099)
    assert previous.belongs(1051, 30, "b", 30) is Belongs.NEW


def test_a_connection_that_has_brought_the_last_id_of_the_new_count_follows_it():
    previous = PreviousCount(range(1000, 1100), 1099, 0, past=[])
    assert previous.belongs(31, 30, "b", 30) is Belongs.NEW
    assert previous.belongs(1050, 31, "b", 31) is Belongs.NEW


def test_where_both_counts_have_an_id_it_is_uncertain():
    previous = PreviousCount(range(1000, 1100), 1099, 0, past=[])
    assert previous.belongs(1050, 1040, "b", 1049) is Belongs.UNCERTAIN
    assert previous.belongs(1050, 30, "b", -1) is Belongs.UNCERTAIN
    assert previous.belongs(1100, 1040, "b", 1099) is Belongs.NEW
