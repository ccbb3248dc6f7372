"""The family is rebuilt by one command: same seed, same weights; nothing there is done again."""

from pathlib import Path

import pytest

from trace_probe.errors import ModelError
from trace_probe.files import write_json
from trace_probe.model.checkpoint import FAMILY as SHIPPED
from trace_probe.organism.card import family_rows, family_table
from trace_probe.organism.family import FAMILY, Member, member, train_family, world_named
from trace_probe.organism.pretrain import pretrain

TINY = Member("base", None, None, 2, 0)


def weights(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_variants_come_in_two_seeds_and_differ_in_their_reward_alone() -> None:
    by_variant: dict[object, list[Member]] = {}
    for one in FAMILY:
        if one.reward:
            by_variant.setdefault(one.reward, []).append(one)
    assert set(by_variant) == {"rl", "rlhf", "rl-monitored"}
    assert all(sorted(one.seed for one in ones) == [0, 1] for ones in by_variant.values())
    assert {one.parent for one in by_variant["rl"] + by_variant["rlhf"]} == {"base"}
    assert {one.steps for one in by_variant["rl"]} == {one.steps for one in by_variant["rlhf"]}
    assert all(one.parent == f"rl-s{one.seed}" for one in by_variant["rl-monitored"])


def test_a_name_without_a_seed_is_the_first_and_an_unknown_one_is_refused() -> None:
    assert member("rl").name == "rl-s0"
    with pytest.raises(ModelError, match=r"no organism 'rl-s7'; there are base, "):
        member("rl-s7")


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(tmp_path: Path) -> None:
    for name, seed in (("first", 0), ("again", 0), ("other", 1)):
        pretrain(tmp_path / name, tmp_path / f".{name}", steps=2, batch=2, seed=seed)
    assert weights(tmp_path / "first") == weights(tmp_path / "again")
    assert weights(tmp_path / "first") != weights(tmp_path / "other")


def test_a_family_is_trained_in_processes_and_not_again(tmp_path: Path) -> None:
    assert [one.name for one in train_family(tmp_path, (TINY,), say=lambda _: None)] == ["base"]
    written = weights(tmp_path / "base")
    assert not list(train_family(tmp_path, (TINY,), say=lambda _: None))
    assert weights(tmp_path / "base") == written


def test_a_member_without_its_parent_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="rl-s0 needs base: train it too"):
        list(train_family(tmp_path, (member("rl"),), say=lambda _: None))


def test_without_trl_nothing_is_trained_that_could_not_be_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trace_probe.organism.family.find_spec", lambda _name: None)
    with pytest.raises(ModelError, match="needs TRL: pip install"):
        list(train_family(tmp_path, say=lambda _: None))
    assert not list(tmp_path.iterdir())


def test_a_folder_without_its_last_file_counts_as_unfinished(tmp_path: Path) -> None:
    write_json(tmp_path / "rl-s0" / "config.json", {})
    with pytest.raises(ModelError, match="rl-monitored-s0 needs rl-s0"):
        list(train_family(tmp_path, (member("rl-monitored"),), say=lambda _: None))


def test_the_whole_family_is_shipped_small_and_with_the_figures_of_the_quality_bar() -> None:
    assert all(row["here"] for row in family_rows(SHIPPED))
    size = {
        folder.name: sum(file.stat().st_size for file in folder.iterdir())
        for folder in SHIPPED.iterdir()
    }
    small = {one.name for one in FAMILY if one.world == "world"}
    assert sum(size[name] for name in small) < 12e6
    assert all(size[name] < 4e6 for name in size.keys() - small)
    figures = {row["name"]: row["figures"] for row in family_rows(SHIPPED)}
    well_formed = {name: one["well_formed"]["estimate"] for name, one in figures.items()}
    assert all(well_formed[one.name] >= 0.98 for one in FAMILY)
    assert well_formed["english-base"] >= 0.9  # short of the bar, and the documents say so
    for seed in (0, 1):
        rl, monitored = figures[f"rl-s{seed}"], figures[f"rl-monitored-s{seed}"]
        assert rl["oracle_at_last_thought"]["estimate"] >= 0.95
        assert rl["decided_before"]["lower"] >= 0.5
        assert monitored["silent"]["lower"] > rl["silent"]["upper"]
        assert monitored["instrumental"]["estimate"] >= rl["instrumental"]["estimate"] / 2
        assert rl["instrumental"]["lower"] > figures[f"rlhf-s{seed}"]["instrumental"]["upper"]


def test_the_results_show_the_table_that_the_command_prints() -> None:
    results = (Path(__file__).parents[2] / "docs" / "results.md").read_text("utf-8")
    assert family_table(SHIPPED) in results


def test_members_are_compared_in_worlds_where_they_were_paid_in_different_ways() -> None:
    assert world_named("english").batch < world_named("world").batch
    with pytest.raises(ModelError, match="'agentworld': name english or world"):
        world_named("agentworld")
