"""Names and the shard function, which is part of the format: other processes must compute the same."""

from collections import Counter

from pgweir_contract.names import SHARDS, assignments_file, instance_key, shard_of, tenants_file


def test_shards_are_those_of_all_earlier_versions() -> None:
    assert {key: shard_of(key) for key in ("acme", "globex", "127.0.0.1:5432", "ä")} == {
        "acme": 0,
        "globex": 8,
        "127.0.0.1:5432": 5,
        "ä": 0,
    }


def test_keys_spread_evenly() -> None:
    counts = Counter(shard_of(f"tenant-{n}") for n in range(16_000))
    assert set(counts) == set(range(SHARDS))
    assert all(800 < count < 1200 for count in counts.values())


def test_file_names_have_two_digits() -> None:
    assert (tenants_file(0), tenants_file(15)) == ("tenants-00.json", "tenants-15.json")
    assert assignments_file(7) == "assignments-07.json"


def test_an_instance_has_one_spelling() -> None:
    assert instance_key("DB.Example", 5432) == "db.example:5432"
    assert instance_key("db.example.", 5432) == "db.example:5432"
    assert instance_key("::1", 5433) == instance_key("0:0::0001", 5433) == "[::1]:5433"
