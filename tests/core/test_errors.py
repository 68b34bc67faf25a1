import pickle

from statetx.core.errors import DataError, did_you_mean


def test_block_says_what_where_and_fix():
    error = DataError("no column 'x'", where="a.h5ad", fix="rename it")
    assert str(error) == "no column 'x'\n  where: a.h5ad\n  fix:   rename it"


def test_error_survives_pickling():
    error = pickle.loads(pickle.dumps(DataError("what", where="here", fix="so")))
    assert (type(error), str(error)) == (DataError, "what\n  where: here\n  fix:   so")


def test_nearest_name_ignores_case():
    assert did_you_mean("bestatin", ["Imatinib", "Bestatin "]) == "did you mean 'Bestatin '?"


def test_far_name_lists_what_there_is():
    assert did_you_mean("zzz", ["a", "b"]) == "known: 'a', 'b'."
    assert did_you_mean("zzz", []) == "There are none."
    assert did_you_mean("zzz", range(20)).endswith("… (20 in all).")


def test_names_that_look_alike_are_spelt_out():
    composed, decomposed = "Caf\u00e9ine", "Cafe\u0301ine"
    said = did_you_mean(decomposed, [composed, "Aspirin"])
    assert r"'Caf\xe9ine'" in said
    assert r"'Cafe\u0301ine'" in said
