"""A suite's tables, by hand: what the runs measured, what is compared with what, tests over users and seeds."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from common.dataset import Dataset
from common.errors import UserError
from common.ranking import train_counts
from reproduce import comparison, formats, run, significance, suite, table
from reproduce.ranks import Ranks, coverage_and_gini, gain, groups
from reproduce.rows import Row, collect

COLUMNS = ("ndcg@10", "valid ndcg@10", "trained", "frozen", "epochs", "seconds", "operations")


def test_table_holds_what_the_runs_measured_and_leads_to_them(small_suite, capsys):
    folder, words = small_suite
    table.main(words)
    home = folder / "r" / "suites" / "mine"
    (metrics,) = (folder / "r" / "Markov" / "Tiny").glob("*/metrics.json")
    measured = json.loads(metrics.read_text())["test"]
    for name in ("table.md", "table.tex", "table.csv", "table.html"):
        assert f"{measured['ndcg@10']:.4f}" in (home / name).read_text()
    page = (home / "table.html").read_text()
    assert "Against " in page and "metrics.json" in page and "python -m reproduce.train Markov Tiny" in page
    text = (home / "table.md").read_text()
    links = [part.split(")")[0] for part in text.split("](")[1:]]
    assert links and all(link.startswith("#") or (home / link).is_file() for link in links)
    assert "Tiny: by groups" in text and "coverage" in text
    table.main([*words, "dataset=Tiny", "--masked"])  # another table, in files of its own
    assert "history masked" in (home / "table-Tiny-masked.md").read_text() and (home / "table.md").read_text() == text


def test_every_model_tells_what_it_costs_and_how_it_does_by_groups(small_suite):
    folder, words = small_suite
    table.main(words)
    lines = list(csv.reader((folder / "r" / "suites" / "mine" / "table.csv").read_text().splitlines()))
    costs = {line[1]: dict(zip(COLUMNS, line[2:])) for line in lines if line[0] == "Tiny: accuracy against cost"}
    assert set(costs) == {"Pop", "Markov", "SASRec", "ADRec"}
    for name in ("SASRec", "ADRec"):
        assert "–" not in costs[name].values() and float(costs[name]["operations"]) > 0
        assert int(costs[name]["trained"].replace(",", "")) > 0
    assert costs["Pop"]["operations"] == "–" and costs["Pop"]["trained"] == "0"
    grouped = [line for line in lines if line[0] == "Tiny: by groups"]
    assert [line[1] for line in grouped] == ["Pop", "Markov", "SASRec", "ADRec"]
    assert all(float(cell) >= 0 for line in grouped for cell in line[-2:])


def test_a_base_is_compared_with_all_others(small_suite):
    folder, words = small_suite
    text = (folder / "mine.yaml").read_text().replace("against: [Markov]", "base: Pop")
    other = folder / "based.yaml"
    other.write_text(text)
    table.main([str(other), *words[1:]])
    page = (folder / "r" / "suites" / "based" / "table.csv").read_text()
    assert page.count("Tiny: against Pop,Markov,") == 5 and "Tiny: against Pop,Pop" not in page
    assert page.count("Tiny: against Pop,ADRec") == 5
    table.main([*words, "rows=[Markov,SASRec]", "base=Markov"])  # any two rows of any suite
    text = (folder / "r" / "suites" / "mine" / "table-rows-Markov-SASRec-base-Markov.csv").read_text()
    assert text.count("Tiny: against Markov,SASRec,") == 5 and "Pop" not in text


def test_a_table_of_some_rows_does_not_take_the_place_of_the_whole(small_suite):
    folder, words = small_suite
    whole = folder / "r" / "suites" / "mine" / "table.md"
    table.main(words)
    before = whole.read_text()
    table.main([*words, "rows=[Pop,Markov]"])
    assert whole.read_text() == before and "SASRec" not in whole.with_name("table-rows-Pop-Markov.md").read_text()
    part = whole.with_name("table-rows-Pop-Markov.md").read_text()
    asked = [run.asked_for(words[0], [*words[1:], "rows=[Pop,Markov]", *more], None) for more in ([], ["epochs=1"])]
    names = [one.selection for one in asked]
    assert names[0] != names[1] and part


def test_signs_that_tex_does_not_print_are_spelled():
    text = formats.latex([formats.Table("t", ["p < 0.05"], [[formats.Cell("-1 … 2 – 3")]])])
    assert "p $<$ 0.05" in text and "-1 \\dots{} 2 -- 3" in text


def test_popularity_is_counted_over_training_rows_alone():
    lists = [[0, 0, 1, 3, 0], [1, 2, 1], [0, 2, 3, 3]]  # the second user has no training row
    sequences = [np.array(items) for items in lists]
    assert train_counts(sequences, 4).tolist() == [3, 1, 1, 0]
    dataset = Dataset("D", Path(), [0, 1, 2], sequences, [""] * 4, [""] * 4, None)
    ranks = Ranks(np.arange(3), np.array([0, 1, 3]), np.ones(3))
    found = groups(dataset, ranks)
    assert found["popular targets"].tolist() == [True, False, False]
    assert (found["middling targets"] | found["rare targets"]).tolist() == [False, True, True]
    assert found["history ≤ 5"].all()


def test_gains_are_the_metrics():
    ranks = np.array([1.0, 3.0, 10.5, 40.0])
    assert gain(ranks, "hit@10").tolist() == [1, 1, 0, 0]
    assert gain(ranks, "ndcg@5").tolist() == [1, 0.5, 0, 0]
    assert gain(ranks, "mrr")[3] == 1 / 40


def test_comparison_and_holm_by_hand():
    generator = np.random.default_rng(0)
    theirs = generator.random(400)
    ours = theirs + 0.05 + 0.1 * generator.standard_normal(400)
    found = significance.over_users(ours[None], theirs[None])
    assert found.low < found.difference < found.high and found.low > 0
    half = 1.96 * np.std(ours - theirs) / 20  # the normal interval of a mean
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.1)
    assert found.p == stats.ttest_rel(ours, theirs).pvalue
    assert significance.over_users(ours[None], ours[None]).p == 1.0
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_a_test_over_seeds_too_is_that_of_the_sum_of_a_normal_and_a_t():
    generator = np.random.default_rng(0)
    ours = 0.02 * generator.random((3, 1)) + 0.3 * generator.random((3, 500))  # (seeds, users)
    theirs = 0.02 * generator.random((2, 1)) + 0.3 * generator.random((2, 500))
    known = significance.SeedVariance(0.008**2, 4)
    found = significance.over_users_and_seeds(ours, theirs, known)
    differences = ours.mean(axis=0) - theirs.mean(axis=0)
    own = [np.var(runs.mean(axis=1), ddof=1) for runs in (ours, theirs)]
    assert min(own) < 0.008**2 < max(own)  # one of each kind
    error = (max(own[0], 0.008**2) / 3 + max(own[1], 0.008**2) / 2) ** 0.5
    drawn = generator.standard_normal(1_000_000) * differences.std(ddof=1) / 500**0.5
    drawn += error * generator.standard_t(4, 1_000_000)
    assert found.difference == pytest.approx(differences.mean())
    assert found.high - found.difference == pytest.approx(np.quantile(np.abs(drawn), 0.95), rel=0.01)
    assert found.p == pytest.approx(np.mean(np.abs(drawn) > abs(found.difference)), abs=0.003)
    one = significance.over_users_and_seeds(ours[:1], theirs, known)  # of one run, the table's variance
    assert one.high - one.low > found.high - found.low
    assert significance.over_users_and_seeds(ours[:1], theirs, significance.SeedVariance(0.0, 0)) is None


def test_a_test_over_seeds_too_where_one_part_is_all():
    users, none = np.array([0.1, 0.0, 0.4, 0.3] * 50), np.zeros((3, 200))
    known = significance.SeedVariance(0.1**2, 2)
    counted = significance.over_users_and_seeds(np.tile(users, (3, 1)), none, known)  # no deviation over seeds
    error = users.std(ddof=1) / 200**0.5
    assert counted.p == pytest.approx(2 * stats.norm.sf(users.mean() / error), rel=0.01)
    means = np.array([0.1, 0.2, 0.6])
    alone = significance.over_users_and_seeds(np.tile(means[:, None], 200), none, known)  # none over users
    assert alone.p == pytest.approx(stats.ttest_1samp(means, 0).pvalue, rel=0.01)
    assert alone.high == pytest.approx(0.3 + stats.t.ppf(0.975, 2) * means.std(ddof=1) / 3**0.5, rel=0.01)
    same = np.tile(users, (3, 1))
    assert significance.over_users_and_seeds(same, same, known).p == significance.over_users(same, same).p == 1.0
    third = np.tile(users / 3, (6, 1))  # whose mean rounds otherwise than that of five
    assert significance.over_users(third, third[:5]).p == 1.0
    assert significance.over_users(np.array([[0.5]]), np.array([[0.2]])).p == 1.0  # one user


def test_the_variance_of_a_table_is_the_mean_of_rows_that_vary():
    found = significance.variance_over_seeds([[0.1, 0.3], [0.2, 0.2, 0.5], [0.4], [0.3, 0.3]])
    assert found.variance == pytest.approx((1 * 0.02 + 2 * 0.03) / 3) and found.freedom == 3
    assert significance.variance_over_seeds([[0.1], [0.2, 0.2]]) == significance.SeedVariance(0.0, 0)


@pytest.mark.parametrize("spread", [0.0, 0.7])
def test_models_that_differ_by_their_seeds_alone_are_rarely_told_apart(spread):
    generator = np.random.default_rng(0)
    called = np.zeros(2)
    for _ in range(300):  # a table of eight rows, three seeds, whose deviations over seeds are alike, or are not
        deviations = 0.05 * np.exp(spread * generator.standard_normal(8))
        of_runs = deviations[:, None] * generator.standard_normal((8, 3))
        users = generator.random(300)
        ours, theirs = (users + own[:, None] + 0.05 * generator.standard_normal((3, 300)) for own in of_runs[:2])
        table_of = significance.variance_over_seeds(of_runs)
        found = significance.over_users(ours, theirs), significance.over_users_and_seeds(ours, theirs, table_of)
        called += [one.p < 0.05 for one in found]
    assert called[0] > 150 and called[1] <= 20  # of 300: seeds as they are call most of them different


def test_one_correction_for_all_tests_of_a_table():
    one = significance.Comparison(0.1, 0.0, 0.2, 0.012)
    texts, below = comparison._told([one, None, None, None, None])
    assert texts[0] == ["+0.0000 … +0.2000", "0.06"] and texts[1] == ["–", "–"] and below == 5 * [False]


def test_coverage_and_gini_by_hand():
    assert coverage_and_gini(np.array([[0, 1], [2, 3]]), 4) == (1.0, 0.0)
    coverage, gini = coverage_and_gini(np.array([[0], [0]]), 4)
    assert coverage == 0.25 and gini == 0.75  # all on one of four: (n - 1) / n


def test_best_and_second_are_marked_in_every_format():
    marks = table._marks([0.1, 0.30001, 0.3, 0.2])
    assert marks == ["", "best", "best", "second"]
    made = formats.Table("t", ["m", "x"], [[formats.Cell("a_b", "", "a"), formats.Cell("0.1 ± 0.2", "best", "a")]])
    odd = formats.Table("t", ["m"], [[formats.Cell("<b>a [1] \\\\ 2^3", "", "a")]])
    assert "[\\<b>a \\[1\\] " in formats.markdown([odd]) and "2\\textasciicircum{}3" in formats.latex([odd])
    assert "[a_b](#a)" in formats.markdown([made]) and "**0.1 ± 0.2**" in formats.markdown([made])
    assert "a\\_b & \\textbf{0.1 $\\pm$ 0.2}" in formats.latex([made])
    assert "<a href='#a'><b>0.1 ± 0.2</b></a>" in formats.page("t", [made], "")


def test_published_values_tell_source_and_protocol():
    rows = table.published("Bili_Food").rows
    assert all(cell.text for row in rows for cell in row)
    assert table.published("Tiny") is None


def row_of(folder, name, ranks, items=(5, 6, 7, 8)):
    home = folder / name
    home.mkdir()
    lines = [f"{user},{item},{rank},{rank}" for user, (item, rank) in enumerate(zip(items, ranks))]
    (home / "ranks.csv").write_text("\n".join(["user,item,rank,rank_masked", *lines]))
    values = {metric: float(gain(np.array(ranks, float), metric).mean()) for metric in table.METRICS}
    return Row(name, "D", [], [home], [{"test": values}])


def test_each_metric_has_its_own_strongest(tmp_path):
    sharp, wide, ours = (
        row_of(tmp_path, name, ranks)
        for name, ranks in (("sharp", [1, 1, 99, 99]), ("wide", [9, 9, 9, 99]), ("ours", [2, 2, 9, 99]))
    )
    against = suite.Suite("s", [], ["ours"])
    lines = [[cell.text for cell in line] for line in comparison.compared([sharp, wide, ours], against, "test").rows]
    told = {metric: (other, difference) for _, metric, other, difference, *_ in lines}
    assert told["HIT@10"] == ("wide", "+0.0000") and told["MRR"][0] == "sharp"
    assert told["NDCG@10"][0] == "sharp" and len({line[0] for line in lines}) == 1
    other = row_of(tmp_path, "other", [1, 1, 1, 1], items=(5, 6, 7, 9))
    with pytest.raises(UserError, match="'ours' and 'other' were tested on other users or targets"):
        comparison.compared([other, ours], against, "test")
    with pytest.raises(UserError, match="'ours' and 'other' were tested on other users or targets"):
        table.by_groups([ours, other], None, "test")


def measured(name, dataset, seed, value):
    return Row(
        name,
        dataset,
        [suite.SuiteRun(name, name, dataset, seed, ())],
        [],
        [{"test": dict.fromkeys(table.METRICS, value)}],
    )


def test_several_data_sets_stand_side_by_side():
    rows = [measured("a", "D", 1, 0.1), measured("b", "D", 1, 0.3), measured("b", "E", 1, 0.2)]
    planned = [
        suite.SuiteRun(n, n, d, s, ()) for n, d, s in [("a", "D", 1), ("b", "D", 1), ("b", "D", 2), ("a", "E", 1)]
    ]
    made = table.overview(rows, suite.Suite("s", planned, []), "test")
    assert made.header == ["model", "D HIT@10", "D NDCG@10", "E HIT@10", "E NDCG@10"]
    lines = [[(cell.text, cell.mark) for cell in line] for line in made.rows]
    assert lines[0] == [("a", ""), *2 * [(".1000", "second")], *2 * [("–", "")]]
    assert lines[1] == [("b", ""), *2 * [(".3000", "best")], *2 * [(".2000", "best")]]
    assert made.title == "D, E: test, all items ranked, history unmasked, seed 1"
    assert made.notes == ["Not complete on D: b (1 of 2 runs).", "Not complete on E: a (0 of 1 runs)."]


def test_a_metric_in_few_signs():
    assert table._short([0.1932]) == ".1932" and table._short([0.5, 0.5]) == ".5000"
    assert table._short([0.1, 0.2]) == ".1500 ± .0707" and table._short([1.0]) == "1.0000"


@pytest.mark.parametrize(
    ("against", "base", "told"),
    [
        (
            ["a"],
            None,
            ["Nothing is compared: the suite's own rows are a, and no other row is done or asked for."],
        ),
        (
            ["b"],
            None,
            ["Nothing is compared: the suite's own rows are b, and none of them is done or asked for."],
        ),
        (
            [],
            None,
            ["Nothing is compared: the suite's YAML names no row in against, and no base."],
        ),
        ([], "a", ["Nothing is compared with a, the suite's base: all rows but it are missing."]),
        ([], "b", ["Nothing is compared with b, the suite's base: it is not done or not asked for."]),
    ],
)
def test_a_table_without_a_comparison_says_why(against, base, told):
    rows, of = [measured("a", "D", 1, 0.1)], suite.Suite("s", [], against, base)
    assert table.quality(rows, of, "test").notes == told and comparison.compared(rows, of, "test") is None
    rows.append(measured("b", "D", 2, 0.1))
    assert bool(comparison.uncompared(rows, of)) == (not against and base is None)
    assert "mean ± standard deviation over seeds" in table.quality(rows, of, "test").title


def test_a_run_that_was_not_tested_is_named(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "metrics.json").write_text("{}")
    run_of = suite.SuiteRun("Pop", "Pop", "Tiny", 1, ())
    run_of.ledger(str(tmp_path)).parent.mkdir()
    run_of.ledger(str(tmp_path)).write_text(json.dumps({"state": "done", "folder": str(tmp_path / "run")}))
    with pytest.raises(
        UserError, match="Pop, seed 1, is trained and not tested; bash run_test.sh Pop Tiny results_dir="
    ):
        collect(suite.Suite("s", [run_of], []), str(tmp_path), "Tiny")
