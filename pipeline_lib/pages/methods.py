"""The methods paragraph of a report: what was done, in sentences that can be pasted, with references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from pipeline_lib.instances.methods import method_of
from pipeline_lib.runtime.types import Json


class Reference(NamedTuple):
    """A work that is cited.

    Parameters
    ----------
    authors, title, published : str
        Authors, title, and where and when it was published.
    doi : str
        DOI, or another identifier.
    kind : str
        Type of its BibTeX entry.
    """

    authors: str
    title: str
    published: str
    year: int
    doi: str
    kind: str = "article"

    def text(self) -> str:
        """Return the reference as a line of a list."""
        return f"{self.authors} ({self.year}). {self.title}. {self.published}. {self.doi}"

    def bibtex(self, key: str) -> str:
        """Return the BibTeX entry with this key."""
        where = "booktitle" if self.kind == "inproceedings" else "journal"
        fields = {
            "author": " and ".join(name.strip() for name in self.authors.split(";")),
            "title": "{" + self.title + "}",
            where: self.published,
            "year": str(self.year),
            ("doi" if self.doi.startswith("doi:") else "note"): self.doi.removeprefix("doi:"),
        }
        body = ",\n".join(f"  {name} = {{{value}}}" for name, value in fields.items())
        return f"@{self.kind}{{{key},\n{body}\n}}"


REFERENCES = {
    "ronneberger2015": Reference(
        "Ronneberger, O.; Fischer, P.; Brox, T.",
        "U-Net: Convolutional Networks for Biomedical Image Segmentation",
        "MICCAI, LNCS 9351, 234-241",
        2015,
        "doi:10.1007/978-3-319-24574-4_28",
        "inproceedings",
    ),
    "long2015": Reference(
        "Long, J.; Shelhamer, E.; Darrell, T.",
        "Fully Convolutional Networks for Semantic Segmentation",
        "CVPR, 3431-3440",
        2015,
        "doi:10.1109/CVPR.2015.7298965",
        "inproceedings",
    ),
    "liu2016": Reference(
        "Liu, W.; Anguelov, D.; Erhan, D.; Szegedy, C.; Reed, S.; Fu, C.-Y.; Berg, A. C.",
        "SSD: Single Shot MultiBox Detector",
        "ECCV, LNCS 9905, 21-37",
        2016,
        "doi:10.1007/978-3-319-46448-0_2",
        "inproceedings",
    ),
    "ciresan2012": Reference(
        "Ciresan, D.; Giusti, A.; Gambardella, L. M.; Schmidhuber, J.",
        "Deep Neural Networks Segment Neuronal Membranes in Electron Microscopy Images",
        "NIPS 25, 2843-2851",
        2012,
        "papers.nips.cc/paper/4741",
        "inproceedings",
    ),
    "arganda2015": Reference(
        "Arganda-Carreras, I.; Turaga, S. C.; Berger, D. R.; et al.",
        "Crowdsourcing the creation of image segmentation algorithms for connectomics",
        "Frontiers in Neuroanatomy 9, 142",
        2015,
        "doi:10.3389/fnana.2015.00142",
    ),
    "maska2014": Reference(
        "Maška, M.; Ulman, V.; Svoboda, D.; et al.",
        "A benchmark for comparison of cell tracking algorithms",
        "Bioinformatics 30, 1609-1617",
        2014,
        "doi:10.1093/bioinformatics/btu080",
    ),
    "wolf2018": Reference(
        "Wolf, S.; Pape, C.; Bailoni, A.; et al.",
        "The Mutex Watershed: Efficient, Parameter-Free Image Partitioning",
        "ECCV, LNCS 11208, 571-587",
        2018,
        "doi:10.1007/978-3-030-01225-0_34",
        "inproceedings",
    ),
    "beier2017": Reference(
        "Beier, T.; Pape, C.; Rahaman, N.; et al.",
        "Multicut brings automated neurite segmentation closer to human performance",
        "Nature Methods 14, 101-102",
        2017,
        "doi:10.1038/nmeth.4151",
    ),
    "kingma2015": Reference(
        "Kingma, D. P.; Ba, J.",
        "Adam: A Method for Stochastic Optimization",
        "ICLR",
        2015,
        "arXiv:1412.6980",
        "inproceedings",
    ),
    "loshchilov2019": Reference(
        "Loshchilov, I.; Hutter, F.",
        "Decoupled Weight Decay Regularization",
        "ICLR",
        2019,
        "arXiv:1711.05101",
        "inproceedings",
    ),
    "molder2021": Reference(
        "Mölder, F.; Jablonski, K. P.; Letcher, B.; et al.",
        "Sustainable data analysis with Snakemake",
        "F1000Research 10, 33",
        2021,
        "doi:10.12688/f1000research.29032.2",
    ),
}
NETWORKS = {
    "unet": ("A U-Net", "ronneberger2015"),
    "fcn32s": ("An FCN-32s", "long2015"),
    "fcn16s": ("An FCN-16s", "long2015"),
    "fcn8s": ("An FCN-8s", "long2015"),
    "ssd": ("A single-shot detector", "liu2016"),
    "patch_classifier": ("A patch classifier that was made convolutional", "ciresan2012"),
}
METHODS = {
    "components": "connected components of the pixels above a threshold of {threshold:g}",
    "watershed": (
        "a watershed on the cell probability, whose seeds are the connected components above "
        "{seed_threshold:g} and which grows down to {threshold:g}"
    ),
    "multicut": "a multicut of superpixels (beta {multicut_beta:g}) of the pixels above {threshold:g}",
    "mutex_watershed": (
        "a mutex watershed on affinities that the network learned, of the pixels above {threshold:g}, after "
        "which regions below {smallest_region:g} px join a neighbour"
    ),
}
CITED_BY_METHOD = {"multicut": "beier2017", "mutex_watershed": "wolf2018"}
CITED_BY_SCORE = {
    "v_rand_thin": "arganda2015",
    "v_info_thin": "arganda2015",
    "rand_error": "arganda2015",
    "pixel_error": "arganda2015",
    "warping_error": "arganda2015",
    "seg": "maska2014",
}
OPTIMIZERS = {"sgd": ("SGD", None), "adam": ("Adam", "kingma2015"), "adamw": ("AdamW", "loshchilov2019")}


class Methods(NamedTuple):
    """The paragraph and what it cites.

    Parameters
    ----------
    sentences : list of str
        Sentences with the keys of references in brackets.
    references : dict of str to Reference
        The cited works by their keys, in the order in which they occur.
    """

    sentences: list[str]
    references: dict[str, Reference]

    def text(self) -> str:
        """Return the paragraph as plain text, with numbers in brackets and the list of references."""
        paragraph = " ".join(self.sentences)
        for number, key in enumerate(self.references, 1):
            paragraph = paragraph.replace(f"[{key}]", f"[{number}]")
        listed = (f"[{number}] {one.text()}" for number, one in enumerate(self.references.values(), 1))
        return "\n".join([paragraph, "", *listed])

    def bibtex(self) -> str:
        """Return the references as BibTeX."""
        return "\n\n".join(reference.bibtex(key) for key, reference in self.references.items())


def describe_methods(
    settings: Json,
    volumes: Sequence[Json],
    *,
    chosen: Json,
    parameters: int,
    best_iteration: int,
    trainings: int,
    ensemble: bool,
    scores: Sequence[tuple[str, str, str]],
    split: str,
    software: dict[str, str],
) -> Methods:
    """Describe training, prediction and scores in sentences.

    Parameters
    ----------
    settings : dict
        The whole configuration.
    volumes : sequence of dict
        Rows of the table of volumes: `split` and, if volumes are divided into folds, the name of the `whole`.
    chosen : dict
        Content of the post-processing file of the network.
    parameters : int
        Number of parameters of the network.
    best_iteration : int
        Iteration whose state is used.
    trainings : int
        Number of trainings, with all seeds and folds.
    ensemble : bool
        Whether the mean of all trainings is used.
    scores : sequence of (str, str, str)
        Metric, name and value of each score, as text.
    split : str
        Split of these scores.
    software : dict of str to str
        Version of each package; the first one is bordure.

    Returns
    -------
    Methods
        Paragraph and references.
    """
    network, training, augmentation = (settings[name] for name in ("network", "training", "augmentation"))
    words, of_network = NETWORKS[network["name"]]
    numbers = {name: sum(row["split"] == name for row in volumes) for name in ("train", "validation", "test")}
    folds = settings.get("folds", 1)
    if folds > 1:
        divided = (row for row in volumes if row["split"] in ("train", "validation"))
        number = len({row.get("whole", place) for place, row in enumerate(divided)})
        learned, held_out = f"all but one of {folds} parts of {_volumes(number)}", "the part left out"
    else:
        learned, held_out = _volumes(numbers["train"]), _volumes(numbers["validation"])
    optimizer, of_optimizer = OPTIMIZERS[training["optimizer"]]
    packages = ", ".join(f"{name} {version}" for name, version in [*software.items()][1:])
    sentences = [
        f"Images were processed with bordure {software['bordure']} ({packages}), a Snakemake workflow "
        "[molder2021].",
        f"{words} [{of_network}] with {parameters:,} parameters was trained on {learned} "
        f"for {training['iterations']:,} iterations of {training['batch']} {_patches(training)} with "
        f"{optimizer}{_cite(of_optimizer)}, learning rate {training['learning_rate']:g}{_decay(training)}.",
    ]
    sentences += _input(settings)
    if network["name"] != "ssd":
        sentences.append(_loss(settings))
    sentences.append(_augmentation(augmentation))
    best = "loss" if training["best_by"] == "loss" else "score"
    if folds > 1 and ensemble:
        sentences.append(
            f"The state with the best {best} on the part left out was kept. The results are those of the "
            f"mean of {trainings} networks trained this way, which left out different parts; each part was "
            "predicted by the networks that left it out."
        )
    else:
        sentences.append(
            f"The state with the best validation {best} ({held_out}) was kept, that of iteration "
            f"{best_iteration:,}."
        )
        if ensemble:
            sentences.append(f"The results are those of the mean of {trainings} networks trained this way.")
    orientations = settings["prediction"]["average_orientations"]
    sentences.append(
        "Sections were predicted in overlapping tiles with mirrored edges"
        f"{', as the mean over eight orientations' if orientations else ''}."
    )
    sentences.append(_cells(network, chosen))
    if scores:
        on = (
            f"On {_volumes(numbers['test'])}, used neither for training nor for choosing settings"
            if split == "test"
            else "On the validation volumes, by which settings were chosen"
        )
        listed = ", ".join(
            f"{name} {value}{_cite(CITED_BY_SCORE.get(metric))}" for metric, name, value in scores
        )
        members = "its members" if ensemble else f"{trainings} trainings that differ in their seeds or folds"
        seeds = f"; in brackets mean ± standard deviation of {members}" if trainings > 1 else ""
        sentences.append(f"{on}, the scores are: {listed}{seeds}.")
    text = " ".join(sentences)
    order = sorted((text.index(f"[{key}]"), key) for key in REFERENCES if f"[{key}]" in text)
    return Methods(sentences, {key: REFERENCES[key] for _, key in order})


def _volumes(number: int) -> str:
    return f"{number:,} annotated volume{'' if number == 1 else 's'}"


def _patches(training: Json) -> str:
    tile = training["tile"]
    return f"patch{'' if training['batch'] == 1 else 'es'} of {tile} x {tile} px"


def _decay(training: Json) -> str:
    return "" if training["decay"] == "constant" else f" with {training['decay']} decay"


def _input(settings: Json) -> list[str]:
    training, sections = settings["training"], settings["network"].get("context_sections")
    sentences = []
    if sections:
        sentences.append(f"Each section was seen with {sections} on each side as further channels.")
    if training.get("start_from"):
        kept = f"; those of {', '.join(parts)} were not changed" if (parts := training.get("freeze")) else ""
        sentences.append(f"The training started from the parameters of another trained network{kept}.")
    return sentences


def _loss(settings: Json) -> str:
    weights = settings["weight_map"]
    terms = []
    if weights["class_balance"]:
        terms.append("weights that balance the classes")
    if weights["w0"]:
        terms.append(
            f"larger weights at narrow borders between cells (w0 = {weights['w0']:g}, "
            f"sigma = {weights['sigma']:g} px) [ronneberger2015]"
        )
    training = settings["training"]
    pixels, dice = "of all pixels", ""
    if share := training.get("loss_mask"):
        pixels = f"of randomly chosen pixels (probability {share:g})"
    if offsets := training.get("affinities"):
        number = "" if offsets is True else f" at {len(offsets)} offsets"
        dice = f", plus the mean Dice loss of affinities between pairs of pixels{number} [wolf2018]"
    weighted = f" with {' and '.join(terms)}" if terms else ""
    return f"The loss is the cross entropy {pixels}{weighted}{dice}."


def _augmentation(settings: Json) -> str:
    terms = []
    if settings["rotate"]:
        terms.append("rotation")
    if settings["mirror"]:
        terms.append("mirroring")
    if smallest := settings.get("smallest_window"):
        terms.append(f"enlargement up to {1 / smallest:.3g} times")
    if settings["elastic_std"]:
        terms.append(f"elastic deformation (standard deviation {settings['elastic_std']:g} px)")
    if any(settings[name] for name in ("gain", "offset", "gamma")):
        terms.append("variation of gray values")
    if settings["noise"]:
        terms.append("noise")
    if settings.get("section_jitter"):
        terms.append("shifts of the neighbouring sections")
    return f"Patches were augmented by {_listed(terms)}." if terms else "Patches were not augmented."


def _cells(network: Json, chosen: Json) -> str:
    if network["name"] == "ssd" and chosen.get("one_per_section"):
        return "The detection of each section is its box with the highest score."
    if network["name"] == "ssd":
        return (
            f"Boxes with a score of at least {chosen['threshold']:g} are detections; this value was chosen "
            "on the validation volumes."
        )
    method = method_of(chosen)
    cited = _cite(CITED_BY_METHOD.get(method))
    reach = chosen.get("border_reach")
    border = f", to which the predicted border is given back up to {reach:,} px" if reach else ""
    return (
        f"Cells are {METHODS[method].format(**chosen)}{cited}{border}; these values were chosen on the "
        "validation volumes."
    )


def _cite(key: str | None) -> str:
    return f" [{key}]" if key else ""


def _listed(terms: Sequence[str]) -> str:
    return terms[0] if len(terms) == 1 else f"{', '.join(terms[:-1])} and {terms[-1]}"
