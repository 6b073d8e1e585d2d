"""PPE and PME are compared with the paper's Tables 1, 3 and 4; scores and the front with loops by hand."""

import math
from collections.abc import Sequence
from decimal import ROUND_HALF_EVEN, Decimal
from typing import get_args

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from fpt_ray.config.tasks import SCORES, Score
from fpt_ray.metrics.pareto import pareto_front
from fpt_ray.metrics.scores import MetricError, auc, names_of, pme, ppe, predicted, score, scores

# Table 1: weights | method | learnable %, memory in MB | AUC of the eight datasets | their average, PPE, PME
TABLE_1 = """
supervised | Full fine-tuning | 100 23128 | 89.79 86.87 96.65 83.22 92.49 66.26 99.85 95.40 | 88.82 65.73 65.73
supervised | Linear probing | 0.01 3416 | 80.17 79.73 93.37 81.27 80.89 60.23 99.21 91.34 | 83.28 83.28 78.44
supervised | Prompt-tuning | 0.17 20582 | 81.07 80.02 94.20 81.66 82.67 59.62 99.27 90.95 | 83.68 83.62 63.47
supervised | Attention-tuning | 33.8 20792 | 81.99 81.87 94.40 80.11 80.67 60.03 99.58 92.07 | 83.68 73.74 63.34
supervised | Adapter | 2.03 19360 | 85.84 80.77 95.96 79.22 80.76 61.39 99.17 90.02 | 84.14 83.41 64.61
supervised | BitFit | 0.12 20382 | 84.31 83.81 94.84 82.35 84.77 63.84 99.81 91.62 | 85.67 85.63 65.11
supervised | LoRA | 0.68 20970 | 85.84 86.08 95.02 84.22 82.26 62.26 99.69 92.13 | 85.94 85.69 64.93
supervised | AdaLoRA | 0.52 20960 | 85.21 86.07 95.85 84.23 86.91 62.45 99.75 92.25 | 86.59 86.40 65.43
supervised | FPT | 1.81 1824 | 84.13 84.95 93.88 80.68 90.52 65.35 99.70 91.97 | 86.40 85.73 83.60
supervised | FPT+ | 1.03 736 | 85.53 86.31 94.27 82.91 90.64 66.33 99.71 91.30 | 87.12 86.73 85.94
dino | Full fine-tuning | 100 23128 | 87.33 84.06 96.44 84.46 91.19 64.70 99.92 95.31 | 87.93 65.07 65.07
dino | Linear probing | 0.01 3416 | 80.77 81.71 93.44 83.96 81.06 63.64 99.40 91.84 | 84.48 84.48 79.57
dino | Prompt-tuning | 0.17 20582 | 80.48 80.71 93.76 83.41 81.86 63.30 99.44 91.97 | 84.37 84.31 63.99
dino | Attention-tuning | 33.8 20792 | 82.38 77.11 92.60 76.32 75.58 51.31 99.57 95.03 | 81.24 71.59 61.49
dino | Adapter | 2.03 19360 | 87.95 84.99 96.02 82.30 77.61 57.56 99.79 89.73 | 84.49 83.76 64.88
dino | BitFit | 0.12 20382 | 86.35 84.68 95.11 84.60 84.27 66.03 99.82 93.43 | 86.79 86.74 65.96
dino | LoRA | 0.68 20970 | 85.14 84.35 95.97 81.06 77.77 60.59 99.89 95.02 | 84.97 84.72 64.20
dino | AdaLoRA | 0.52 20960 | 86.39 84.27 95.79 83.74 88.16 64.39 99.64 93.29 | 86.96 86.76 65.71
dino | FPT | 1.81 1824 | 83.79 84.69 94.27 83.05 90.08 66.23 99.72 91.55 | 86.67 86.00 83.86
dino | FPT+ | 1.03 736 | 86.52 86.13 93.82 84.14 90.50 65.75 99.73 91.52 | 87.26 86.87 86.08
"""
# Table 3: side resolution, average AUC, memory in MB, PME
TABLE_3 = [(64, 86.78, 694, 85.67), (128, 87.12, 736, 85.94), (256, 86.32, 1342, 84.23), (512, 84.78, 8704, 73.80)]
# Table 4: prompts, average AUC, learnable %, memory in MB, PPE, PME
TABLE_4 = [
    (4, 85.94, 0.96, 720, 85.58, 84.80),
    (8, 86.39, 0.99, 722, 86.02, 85.24),
    (16, 87.12, 1.03, 736, 86.73, 85.94),
    (32, 86.54, 1.11, 812, 86.13, 85.25),
    (64, 86.66, 1.28, 972, 86.18, 85.12),
    (128, 86.49, 1.61, 1388, 85.89, 84.33),
]
FULL_MEMORY_MB = 23_128  # full fine-tuning, ViT-B, 512, batch 16
TOLERANCE = 0.006


def table_1() -> list[tuple[str, list[str], list[float], list[float]]]:
    """(weights/method, AUC of each dataset, [learnable %, memory in MB], [average, PPE, PME])"""
    rows = []
    for line in TABLE_1.strip().splitlines():
        weights, method, cost, cells, printed = (part.strip() for part in line.split("|"))
        rows.append((f"{weights}/{method}", cells.split(), [*map(float, cost.split())], [*map(float, printed.split())]))
    return rows


# --- Eq. 9 and 10 ---------------------------------------------------------------------------------------------


def test_every_ppe_and_pme_of_table_1_follows_from_its_printed_average() -> None:
    rows = table_1()
    assert len(rows) == 20
    for name, _, (params_percent, memory_mb), (average, its_ppe, its_pme) in rows:
        assert abs(ppe(average, params_percent / 100) - its_ppe) < TOLERANCE, name
        assert abs(pme(average, memory_mb / FULL_MEMORY_MB) - its_pme) < TOLERANCE, name


def test_one_row_of_table_1_does_not_follow_from_its_cells() -> None:
    """The cells of supervised attention-tuning average 83.84; printed are 83.68 and the PPE and PME of 83.68."""
    wrong: dict[str, list[str]] = {"average": [], "ppe": [], "pme": []}
    for name, cells, (params_percent, memory_mb), (average, its_ppe, its_pme) in table_1():
        exact = sum(map(Decimal, cells), Decimal(0))
        mean = float((exact / 8).quantize(Decimal("0.01"), ROUND_HALF_EVEN))  # as printed; 87.125 is printed as 87.12
        found = {
            "average": abs(mean - average),
            "ppe": abs(ppe(mean, params_percent / 100) - its_ppe),
            "pme": abs(pme(mean, memory_mb / FULL_MEMORY_MB) - its_pme),
        }
        for metric, difference in found.items():
            if difference >= TOLERANCE:
                wrong[metric].append(name)
    exception = ["supervised/Attention-tuning"]
    assert wrong == {"average": exception, "ppe": exception, "pme": exception}


@pytest.mark.parametrize(("side_resolution", "average", "memory_mb", "its_pme"), TABLE_3)
def test_table_3(side_resolution: int, average: float, memory_mb: int, its_pme: float) -> None:
    assert abs(pme(average, memory_mb / FULL_MEMORY_MB) - its_pme) < TOLERANCE


@pytest.mark.parametrize(("num_prompts", "average", "params_percent", "memory_mb", "its_ppe", "its_pme"), TABLE_4)
def test_table_4(
    num_prompts: int, average: float, params_percent: float, memory_mb: int, its_ppe: float, its_pme: float
) -> None:
    assert abs(ppe(average, params_percent / 100) - its_ppe) < TOLERANCE
    assert abs(pme(average, memory_mb / FULL_MEMORY_MB) - its_pme) < TOLERANCE


def test_nothing_spent_costs_nothing() -> None:
    assert ppe(0.9, 0.0) == pme(0.9, 0.0) == 0.9
    assert math.isclose(pme(0.9, 9.0), 0.9 / math.e)


# --- scores ---------------------------------------------------------------------------------------------------


def predictions(num_images: int, num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, tuple[str, ...]]:
    """Probabilities in steps of 1/16 (so that there are ties), labels with every class, class names."""
    random = np.random.default_rng(seed)
    labels = random.permutation(np.arange(num_images) % num_classes)
    weights = np.round(random.random((num_images, num_classes)) * 15 + 1) + 4 * np.eye(num_classes)[labels]
    return weights / weights.sum(axis=1, keepdims=True), labels, tuple(f"grade {c}" for c in range(num_classes))


def area_by_counting(scores_: np.ndarray, positive: np.ndarray) -> float:
    """The share of pairs (positive, negative) in the right order; a tie counts half."""
    pairs = [(p > n) + 0.5 * (p == n) for p in scores_[positive] for n in scores_[~positive]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("num_classes", [3, 5, 7])
def test_auc_is_the_mean_of_one_against_the_rest(num_classes: int) -> None:
    probabilities, labels, classes = predictions(70, num_classes)
    expected = np.mean([area_by_counting(probabilities[:, c], labels == c) for c in range(num_classes)])
    assert math.isclose(auc(probabilities, labels, classes), expected, abs_tol=1e-12)
    theirs = roc_auc_score(labels, probabilities, multi_class="ovr", average="macro")
    assert math.isclose(auc(probabilities, labels, classes), float(theirs), abs_tol=1e-12)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_auc_of_equal_probabilities_counts_halves(kind) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(2, size=300)
    said = (random.integers(8, size=300) / 7).astype(kind)  # forty images share each
    theirs = roc_auc_score(labels, said)
    assert auc(np.stack([1 - said, said], axis=1), labels, "ab") == pytest.approx(theirs, abs=1e-12)


def test_auc_of_two_classes_is_the_positive_ones() -> None:
    labels = np.array([0, 0, 1, 1, 1])
    probabilities = np.array([[0.2, 0.8], [0.5, 0.1], [0.0, 0.9], [0.9, 0.3], [0.9, 0.7]])  # columns disagree
    assert math.isclose(auc(probabilities, labels, ("no", "yes")), 4 / 6)


def test_probabilities_need_not_sum_to_one_exactly() -> None:
    probabilities, labels, classes = predictions(40, 4)
    assert math.isclose(auc(probabilities * 1.01, labels, classes), auc(probabilities, labels, classes))


def kappa_by_hand(confusion: np.ndarray) -> float:
    grades = np.arange(len(confusion))
    weights = (grades[:, None] - grades[None, :]) ** 2
    chance = np.outer(confusion.sum(axis=1), confusion.sum(axis=0)) / confusion.sum()
    return float(1 - (weights * confusion).sum() / (weights * chance).sum())


@pytest.mark.parametrize("num_classes", [2, 5])
def test_scores_equal_their_definitions(num_classes: int) -> None:
    probabilities, labels, classes = predictions(60, num_classes)
    found = scores(probabilities, labels, classes)
    predicted = [int(np.argmax(row)) for row in probabilities]
    confusion = np.zeros((num_classes, num_classes), dtype=int)
    for true, guess in zip(labels, predicted, strict=True):
        confusion[true, guess] += 1
    hits = np.diag(confusion)
    assert found.confusion is not None
    assert np.array_equal(found.confusion, confusion)
    assert found["auc"] == auc(probabilities, labels, classes)
    assert math.isclose(found["accuracy"], hits.sum() / 60)
    f1 = [2 * hits[c] / (confusion[c].sum() + confusion[:, c].sum()) for c in range(num_classes)]
    assert math.isclose(found["f1"], float(np.mean(f1)))
    assert math.isclose(found["kappa"], kappa_by_hand(confusion))


def test_a_class_that_is_never_predicted_counts_zero() -> None:
    labels = np.array([0, 1, 2, 0])
    probabilities = np.array([[0.8, 0.2, 0.0], [0.1, 0.8, 0.1], [0.6, 0.0, 0.4], [0.5, 0.5, 0.0]])
    found = scores(probabilities, labels, ("a", "b", "c"))
    assert math.isclose(found["f1"], (2 * 2 / 5 + 1 + 0) / 3)
    assert found.confusion is not None
    assert found.confusion.tolist() == [[2, 0, 0], [0, 1, 0], [1, 0, 0]]


def test_predicting_one_class_throughout_has_no_kappa_above_chance() -> None:
    probabilities = np.tile([0.6, 0.3, 0.1], (6, 1))
    found = scores(probabilities, np.array([0, 1, 2, 0, 1, 2]), ("a", "b", "c"))
    assert (found["auc"], found["kappa"]) == (0.5, 0.0)


def test_a_class_without_images_is_left_out_of_the_means() -> None:
    """Of four classes two are there: the mean over these, each against the rest."""
    probabilities, labels, classes = predictions(40, 4)
    keep = (labels != 1) & (labels != 3)
    probabilities, labels = probabilities[keep], labels[keep]
    found = scores(probabilities, labels, classes)
    areas = [area_by_counting(probabilities[:, c], labels == c) for c in (0, 2)]
    assert math.isclose(found["auc"], np.mean(areas))
    guesses = probabilities.argmax(axis=1)
    recalls = [(guesses[labels == c] == c).mean() for c in (0, 2)]
    assert math.isclose(found["balanced_accuracy"], np.mean(recalls))
    f1 = [2 * ((guesses == c) & (labels == c)).sum() / ((guesses == c).sum() + (labels == c).sum()) for c in (0, 2)]
    assert math.isclose(found["f1"], np.mean(f1))
    assert found.per_class["grade 1"]["images"] == 0
    assert "auc" not in found.per_class["grade 1"]
    with pytest.raises(MetricError, match="no class or label has both images that are of it and images that are not"):
        scores(probabilities[labels == 0], labels[labels == 0], classes)


# --- of each kind of task -----------------------------------------------------------------------------------------


def test_average_precision_and_both_at_90_by_hand() -> None:
    """Ten images of each kind, with ties; thresholds are gone through one by one."""
    random = np.random.default_rng(2)
    labels = np.arange(20) % 2
    second = (0.5 * labels + 0.7 * random.random(20)).round(1)
    said = np.stack([1 - second, second], axis=1)
    thresholds = [*np.unique(second), np.inf]
    right = [((second >= t) & (labels == 1)).sum() / 10 for t in thresholds]
    specific = [((second < t) & (labels == 0)).sum() / 10 for t in thresholds]
    found = scores(said, labels, ("no", "yes"))
    assert found["sensitivity_at_90"] == max(r for r, s in zip(right, specific, strict=True) if s > 0.899)
    assert found["specificity_at_90"] == max(s for r, s in zip(right, specific, strict=True) if r > 0.899)
    falling = [t for t in reversed(thresholds) if t < np.inf]
    precisions = [labels[second >= t].mean() for t in falling]
    recalls = np.array([0.0, *(labels[second >= t].sum() / 10 for t in falling)])
    assert math.isclose(found["average_precision"], float(np.dot(np.diff(recalls), precisions)))
    rows = found.per_class["yes"]
    guess = second > said[:, 0]
    assert rows["images"] == 10
    assert math.isclose(rows["recall"], guess[labels == 1].mean())
    assert math.isclose(rows["precision"], labels[guess].mean())
    assert rows["auc"] == found["auc"]
    assert math.isclose(found["auc"], area_by_counting(second, labels == 1))


def test_grades_are_the_median_and_their_error_counts_grades() -> None:
    said = np.array([[0.4, 0.3, 0.3], [0.1, 0.2, 0.7], [0.6, 0.2, 0.2]])
    labels = np.array([0, 2, 1])
    assert predicted(said, "ordinal").tolist() == [1, 2, 0]
    assert predicted(said, "multiclass").tolist() == [0, 2, 0]
    found = scores(said, labels, ("0", "1", "2"), "ordinal")
    assert math.isclose(found["mae"], (1 + 0 + 1) / 3)
    assert math.isclose(found["kappa"], kappa_by_hand(np.array([[0, 1, 0], [1, 0, 0], [0, 0, 1]])))


def test_a_missing_label_says_nothing_and_a_label_without_both_kinds_is_left_out() -> None:
    nan = np.nan
    labels = np.array([[1, 0, 1], [0, 0, nan], [1, 0, 0], [nan, 0, 1]], np.float32)
    said = np.array([[0.9, 0.4, 0.2], [0.8, 0.1, 0.9], [0.3, 0.2, 0.6], [0.99, 0.7, 0.8]])
    found = scores(said, labels, ("a", "b", "c"), "multilabel")
    assert math.isclose(found["auc"], (0.5 + 0.5) / 2)  # of a: 0.9 and 0.3 against 0.8; of c: 0.2 and 0.8 against 0.6
    assert math.isclose(found["f1"], (2 * 1 / (2 + 2) + 2 * 1 / (2 + 2)) / 2)
    assert found.confusion is None
    assert found.per_class["b"] == {"images": 0, "precision": 0}
    assert found.per_class["a"]["images"] == 2


def test_values_by_hand() -> None:
    labels = np.array([1.0, 2.0, 3.0, 6.0])
    said = np.array([[1.0], [3.0], [2.0], [10.0]])
    found = scores(said, labels, ("age",), "regression")
    assert math.isclose(found["mae"], 6 / 4)
    assert math.isclose(found["r2"], 1 - (1 + 1 + 16) / (4 + 1 + 0 + 9))
    assert math.isclose(found["spearman"], 1 - 6 * 2 / (4 * 15))
    assert score("spearman", np.ones((4, 1)), labels, ("age",), "regression") == 0
    with pytest.raises(MetricError, match="'age' has one value in all 4 images"):
        scores(said, np.ones(4), ("age",), "regression")


@pytest.mark.parametrize("task", ["binary", "multiclass", "ordinal", "multilabel", "regression"])
def test_a_task_has_the_scores_that_configurations_name(task) -> None:
    assert set(names_of(task)) == set(SCORES[task])
    assert all(name in get_args(Score) for name in SCORES[task])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p, y: (np.where(p > 0.9 * p.max(), np.nan, p), y), "not finite; the model diverged"),
        (lambda p, y: (p[:, :2], y), r"shape \(12, 2\); expected \(12, 3\)"),
        (lambda p, y: (p, y + 1), r"labels are 1\.\.3; they must be 0\.\.2"),
        (lambda p, y: (p[:0], y[:0]), "among 0 images and 'grade 0', 'grade 1', 'grade 2'"),
    ],
)
def test_bad_predictions_are_refused(change, message: str) -> None:
    probabilities, labels, classes = predictions(12, 3)
    probabilities, labels = change(probabilities, labels)
    with pytest.raises(MetricError, match=message):
        scores(probabilities, labels, classes)


def test_one_class_is_refused() -> None:
    with pytest.raises(MetricError, match="at least two"):
        auc(np.ones((3, 1)), np.zeros(3, dtype=int), ("only",))


# --- the front ------------------------------------------------------------------------------------------------


def front_by_hand(points: np.ndarray, modes: Sequence[str]) -> list[bool]:
    def dominates(a: np.ndarray, b: np.ndarray) -> bool:
        better = [x > y if mode == "max" else x < y for x, y, mode in zip(a, b, modes, strict=True)]
        worse = [x < y if mode == "max" else x > y for x, y, mode in zip(a, b, modes, strict=True)]
        return any(better) and not any(worse)

    return [not any(dominates(other, point) for other in points) for point in points]


@pytest.mark.parametrize("modes", [("max",), ("max", "min"), ("min", "min"), ("max", "max", "min")])
@pytest.mark.parametrize("levels", [4, 1000])
def test_the_front_equals_a_loop(modes: tuple[str, ...], levels: int) -> None:
    for seed in range(10):
        points = np.random.default_rng(seed).integers(0, levels, (50, len(modes))) / levels  # few levels: many ties
        front = pareto_front(points, modes)  # type: ignore[arg-type]
        assert front.dtype == bool
        assert front.tolist() == front_by_hand(points, modes)


def test_equal_points_are_all_kept() -> None:
    points = np.array([[0.9, 5.0], [0.9, 5.0], [0.8, 5.0], [0.7, 1.0], [0.7, 1.0]])
    assert pareto_front(points, ["max", "min"]).tolist() == [True, True, False, True, True]


def test_a_point_with_nan_neither_stands_on_the_front_nor_dominates() -> None:
    points = np.array([[0.5, 5.0], [np.nan, 1.0], [0.9, np.nan], [np.nan, np.nan], [0.4, 6.0]])
    assert pareto_front(points, ["max", "min"]).tolist() == [True, False, False, False, False]


def test_infinite_points_are_points() -> None:
    points = np.array([[0.5, np.inf], [0.4, 1.0], [0.4, np.inf]])
    assert pareto_front(points, ["max", "min"]).tolist() == [True, True, False]


def test_no_points_no_front() -> None:
    assert pareto_front(np.zeros((0, 2)), ["max", "min"]).shape == (0,)
