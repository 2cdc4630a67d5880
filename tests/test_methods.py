"""The paragraph of methods states what was done, and cites only what was used."""

import re

import pytest

from pipeline_lib.pages.methods import CITED_BY_METHOD, CITED_BY_SCORE, METHODS, REFERENCES, describe_methods
from tests.test_report import SETTINGS

VOLUMES = [{"split": split} for split in ("train", "train", "validation", "test", "predict")]


def describe(settings=SETTINGS, volumes=VOLUMES, **options):
    given = {
        "chosen": {"threshold": 0.35},
        "parameters": 1_940_000,
        "best_iteration": 3500,
        "trainings": 1,
        "ensemble": False,
        "scores": [("v_rand_thin", "V-Rand", "0.970"), ("iou", "IoU", "0.9")],
        "split": "test",
        "software": {"bordure": "1.0", "torch": "2.13"},
    } | options
    return describe_methods(settings, volumes, **given)


def test_numbers_are_those_of_the_run():
    text = describe().text()
    for words in (
        "bordure 1.0 (torch 2.13)",
        "A U-Net [2] with 1,940,000 parameters was trained on 2 annotated volumes for 100 iterations",
        "1 patch of 220 x 220 px with Adam [3], learning rate 0.001 with cosine decay",
        "larger weights at narrow borders between cells (w0 = 10, sigma = 5 px) [2]",
        "rotation, mirroring, elastic deformation (standard deviation 10 px) and variation of gray values",
        "the best validation loss (1 annotated volume) was kept, that of iteration 3,500",
        "as the mean over eight orientations",
        "connected components of the pixels above a threshold of 0.35",
        "On 1 annotated volume, used neither for training nor for choosing settings, the scores are: "
        "V-Rand 0.970 [4], IoU 0.9.",
    ):
        assert words in text, words


@pytest.mark.parametrize("method", METHODS)
def test_every_way_to_make_cells_is_described(method):
    own = {"watershed": "seed_threshold", "mutex_watershed": "smallest_region", "multicut": "multicut_beta"}
    chosen = {"threshold": 0.3} | ({own[method]: 0.75} if method in own else {})
    methods = describe(chosen=chosen)
    assert METHODS[method].format(**chosen) in methods.text()
    assert {*CITED_BY_METHOD.values()} & {*methods.references} == {
        *filter(None, [CITED_BY_METHOD.get(method)])
    }


def test_settings_that_were_not_used_are_not_mentioned():
    off = dict.fromkeys(SETTINGS["augmentation"], False)
    plain = SETTINGS | {
        "augmentation": off,
        "weight_map": {"class_balance": False, "w0": 0, "sigma": 5},
        "prediction": {"average_orientations": False},
        "training": SETTINGS["training"] | {"optimizer": "sgd", "decay": "constant"},
    }
    text = describe(plain, scores=[]).text()
    assert "Patches were not augmented." in text and "cross entropy of all pixels." in text
    for word in ("orientations", "borders", "cosine", "scores", "[3]"):
        assert word not in text, word


def test_ensembles_and_seeds_are_stated():
    assert "mean" not in describe(scores=[]).text().replace("as the mean over eight", "")
    several = describe(trainings=3).text()
    assert "of 3 trainings that differ in their seeds or folds" in several and "networks" not in several
    mean = describe(trainings=3, ensemble=True).text()
    assert "the mean of 3 networks trained this way" in mean and "deviation of its members" in mean


def test_folds_of_an_ensemble_are_stated():
    volumes = [{"split": "validation"}] * 10 + [{"split": "test"}]  # as the workflow passes them
    settings = SETTINGS | {"folds": 5, "seeds": [1]}
    text = describe(settings, volumes, trainings=10, ensemble=True).text()
    for words in (
        "was trained on all but one of 5 parts of 10 annotated volumes for 100 iterations",
        "best loss on the part left out was kept",
        "the mean of 10 networks trained this way, which left out different parts; each part was",
    ):
        assert words in text, words
    assert " 0 annotated" not in text and "3,500" not in text
    alone = describe(settings, trainings=10).text()  # the report shows the first fold
    assert "trained on all but one of 5 parts of 3 annotated volumes" in alone
    assert "the best validation loss (the part left out) was kept, that of iteration 3,500" in alone
    of_a_stack = [{"split": "train", "whole": "stack"}] * 4 + [{"split": "validation", "whole": "stack"}]
    assert "parts of 1 annotated volume " in describe(settings, of_a_stack, trainings=10).text()


def test_starts_neighbours_and_enlargement_are_stated():
    settings = SETTINGS | {
        "network": {"name": "unet", "context_sections": 1},
        "training": SETTINGS["training"] | {"start_from": "old.pt", "freeze": ["down.0", "down.1"]},
        "augmentation": dict.fromkeys(SETTINGS["augmentation"], 0) | {"smallest_window": 0.5},
    }
    text = describe(settings).text()
    for words in (
        "Each section was seen with 1 on each side as further channels.",
        "from the parameters of another trained network; those of down.0, down.1 were not changed.",
        "Patches were augmented by enlargement up to 2 times.",
    ):
        assert words in text, words
    assert "started" not in describe().text() and "each side" not in describe().text()


def test_the_best_box_of_a_section_has_no_threshold():
    settings = SETTINGS | {"network": {"name": "ssd"}}
    text = describe(settings, chosen={"threshold": 0.0, "one_per_section": True}).text()
    assert "is its box with the highest score" in text and "score of at least" not in text


@pytest.mark.parametrize(
    "training, words",
    [
        ({"decay": "linear"}, "learning rate 0.001 with linear decay"),
        ({"decay": "constant"}, "learning rate 0.001. "),
        ({"loss_mask": 0.5}, "cross entropy of randomly chosen pixels (probability 0.5) with weights"),
        ({"affinities": True}, ", plus the mean Dice loss of affinities between pairs of pixels ["),
        ({"affinities": [[0, -1], [-1, 0]]}, "between pairs of pixels at 2 offsets ["),
    ],
)
def test_decay_and_loss_are_those_of_the_training(training, words):
    assert words in describe(SETTINGS | {"training": SETTINGS["training"] | training}).text()


def test_validation_scores_are_not_called_those_of_new_images():
    assert (
        "On the validation volumes, by which settings were chosen, the scores"
        in describe(split="validation").text()
    )


def test_references_are_numbered_in_order_and_have_entries():
    methods = describe(chosen={"threshold": 0.3, "smallest_region": 400})
    paragraph, listed = methods.text().split("\n\n")
    numbers = [int(number) for number in re.findall(r"\[(\d+)\]", paragraph)]
    assert [*dict.fromkeys(numbers)] == [*range(1, len(methods.references) + 1)]
    assert len(listed.splitlines()) == len(methods.references) == methods.bibtex().count("@")
    for key, reference in methods.references.items():
        assert f"{{{key}," in methods.bibtex() and reference.title in listed
    assert "[wolf2018]" not in paragraph


def test_every_citation_exists():
    assert {*CITED_BY_METHOD.values(), *CITED_BY_SCORE.values()} <= {*REFERENCES}
    for reference in REFERENCES.values():
        assert re.fullmatch(r"doi:10\.\d+/\S+|arXiv:\d{4}\.\d{4,5}|papers\.nips\.cc/paper/\d+", reference.doi)
        assert str(reference.year) not in reference.title
