"""What came of a study, as a value: its trials, its front, what was confirmed, what it cost, where things are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mlflow import MlflowClient

from fpt_ray.config.objectives import Limit, Mode
from fpt_ray.display.terminal import without_secrets
from fpt_ray.report.confirmation import confirming
from fpt_ray.report.front import front_of
from fpt_ray.storage.files import absolute, own_folder
from fpt_ray.tracking.folder import folder_id
from fpt_ray.tracking.records import STUDY_ID, StudyRun, TrialRecord, infeasible
from fpt_ray.tracking.runs import find_study, read_trials

if TYPE_CHECKING:
    import pandas as pd

_VERSIONS = ("version.", "git_commit")
"""What the names of a study's tags begin with that ``tracking.provenance`` has given it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyPlaces:
    """Where the things of a study are."""

    tracking_uri: str = field(repr=False)
    """MLflow's tracking server or database."""
    experiment_id: str
    run_id: str
    """The study's run in MLflow."""
    uri: str
    """The study's folder in its working directory, which may lie on S3."""
    folder: Path
    """The folder of this machine with its tables and pictures."""
    stores: tuple[str, ...]
    """URIs of the feature stores it reads."""
    is_own: bool = True
    """Whether the folder is this study's; else the working directory is another one than it was run in."""

    @property
    def workdir(self) -> str:
        """The working directory, as commands in any folder may name it."""
        return without_secrets(absolute(self.uri)).rpartition("/studies/")[0]


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyResult:
    """What came of a study, as it was stored."""

    name: str
    objectives: Mapping[str, Mode]
    constraints: Mapping[str, Limit]
    """{name of a trial's number: what it must keep to}."""
    searched: tuple[str, ...]
    """The dotted names that the study varies."""
    starts_at_paper: bool
    """Whether trial 0 is the point of its space that is nearest to the paper's settings."""
    data_note: str
    """What must be said about the images wherever their numbers stand."""
    score: str
    """The name of the score that picks its best trials."""
    trials: tuple[TrialRecord, ...]
    """By number; one that was run again stands as often as it was run."""
    ledger: Mapping[str, float]
    """What the study cost (see ``report.ledger``); empty until it has ended."""
    places: StudyPlaces
    versions: Mapping[str, str] = field(default_factory=dict)
    """What computed it: {"git_commit" or "version." and a library: which}."""

    @property
    def front(self) -> tuple[TrialRecord, ...]:
        """The trials that count and that no other of these dominates in the study's objectives."""
        return tuple(front_of(self.trials, self.objectives, self.constraints))

    @property
    def infeasible(self) -> tuple[TrialRecord, ...]:
        """The trials that were trained to their end and break a constraint."""
        return tuple(infeasible(self.trials, self.constraints))

    @property
    def confirmed(self) -> tuple[TrialRecord, ...]:
        """The finished trials that confirm others with new seeds, best validation score first."""
        return tuple(confirming(self.trials, self.score))

    def to_pandas(self) -> "pd.DataFrame":
        """One row a trial: its number, status, stage, whether it is on the front, searched values and metrics.

        ``pruned`` says why one of status FINISHED has no result: "stopped early" or "infeasible".
        """
        import pandas as pd

        on_front = {record.run_id for record in self.front}
        rows = [
            {
                "trial": record.number,
                "status": record.status,
                "pruned": record.pruned,
                "stage": record.stage,
                "on_front": record.run_id in on_front,
                **{name: record.params.get(name) for name in self.searched},
                **record.metrics,
            }
            for record in self.trials
        ]
        return pd.DataFrame(rows)


def study_result(
    study: StudyRun, trials: Sequence[TrialRecord], ledger: Mapping[str, float], tracking_uri: str, study_uri: str
) -> StudyResult:
    """The result of a study from its run and its trials."""
    return StudyResult(
        name=study.name,
        objectives=study.objectives,
        constraints=study.constraints,
        searched=study.searched,
        starts_at_paper=study.starts_at_paper,
        data_note=study.data_note,
        score=study.score,
        trials=tuple(trials),
        ledger=ledger,
        places=StudyPlaces(
            tracking_uri=tracking_uri,
            experiment_id=study.experiment_id,
            run_id=study.run_id,
            uri=study_uri,
            folder=own_folder(study_uri),
            stores=study.stores,
            is_own=study.tags.get(STUDY_ID) == folder_id(study_uri),
        ),
        versions={name: text for name, text in study.tags.items() if name.startswith(_VERSIONS)},
    )


def read_result(client: MlflowClient, name: str, tracking_uri: str, workdir: str) -> StudyResult:
    """The result of a study by its name.

    Raises:
        ConfigError: there is no such study, or there are several and the working directory does not tell which.
    """
    study_uri = f"{absolute(workdir)}/studies/{name}"
    study = find_study(client, name, folder_id(study_uri))
    return study_result(study, read_trials(client, study), study.ledger, tracking_uri, study_uri)
