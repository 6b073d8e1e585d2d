"""What a study is run with, as a value: the options of ``fpt-ray tune``."""

from dataclasses import dataclass

from fpt_ray.config.tasks import LearnOptions
from fpt_ray.config.trial import Read


@dataclass(frozen=True, kw_only=True, slots=True)
class StudyOptions(LearnOptions):
    """Search side networks over the preloaded features of some images."""

    space: str
    """The search space: a YAML file, or the name of one that comes with the package."""
    images: str
    """A folder (train/ val/ test/, or classes to be split) or a table (CSV, Parquet) of path, label[, split][,
    group][, sha256]. With --features, a table that preload wrote to workdir/tables will do without its images."""
    features: tuple[str, ...] = ()
    """Feature stores that hold the images, one for each high resolution in the space. Default: those of workdir, to
    which the images are added that they lack."""
    read: Read = "auto"
    """Where trials read features from: each one's GPU, the hosts' shared memory, memory-mapped files on the hosts'
    disks, or the store itself. No number depends on it. Default: the first of them that has room."""
    read_folder: str | None = None
    """With read=disk: the folder on every host's disk, which is kept for other studies. Default: a temporary one, which
    is removed with the study's end."""
    set: tuple[str, ...] = ()
    """Other fixed values for the space, such as training.epochs=5."""
    num_trials: int | None = None
    """Trials of the study in all. Default: the space's number."""
    study: str | None = None
    """The study's name. Default: the name of the space."""
    tracking_uri: str | None = None
    """MLflow's tracking server or database. Default: MLFLOW_TRACKING_URI, else mlflow.db in the working directory."""
    workdir: str = "."
    """Where feature stores, checkpoints, studies and mlflow.db live: a folder, or s3://bucket/prefix (then MLflow is
    elsewhere: --tracking_uri)."""
    resume: bool = False
    """Go on with a study of that name."""
    local: bool = False
    """Start Ray on this machine even if RAY_ADDRESS names a cluster."""
    workers_per_trial: int = 1
    """Workers of one trial; more than one train it through Ray Train."""
    cpus_per_worker: float | None = None
    """CPUs of a worker. Default: one, or all of a machine for methods that run the LPM on CPUs in every step."""
    gpus_per_worker: float | None = None
    """Share of a GPU that a worker takes. Default: what its predicted memory needs, so that small trials share one."""
    at_once: int | None = None
    """Trials that run or wait for room at once. Default: what the cluster holds; of one
    that grows by itself, what it comes to hold."""
    together: int | None = None
    """At most so many trials of one shape train as one model where that is faster: they differ in learning rate, weight
    decay, dropout, seed or blocks, which a sampler then proposes that often for a shape. Default: 1; of a grid 8, on
    CPUs fewer where some of the trials that may run at once would have none."""
    storage: str | None = None
    """Optuna's storage: a database's URL, which several drivers may share. Default: FPT_RAY_STORAGE, else a journal in
    workdir."""
    warm_start: str | None = None
    """An earlier study in the same storage, or of the same workdir, whose front is tried first."""
    confirm: int | None = None
    """Train so many of the best trials again with new seeds, and read the test split for them alone. Default: none."""
    repeats: int = 5
    """With --confirm: new seeds of each."""
    register: str | None = None
    """Register the model of the best trial, by its validation score, in MLflow under this name, with the alias
    champion; of one study. Default: models are logged, and none is registered."""
    with_backbone: bool = False
    """The weights of the LPM lie in every bundle of the study, which then needs no network: one file more in each, as
    large as the LPM (ViT-S 87 MB, ViT-B 343 MB, ViT-L 1.2 GB). `fpt-ray predict pack` does so to a single one."""
    evidence: int = 0
    """Draw what the best trial's networks looked at in so many test images, for the study's page, which then shows
    these images; for fpt+, fpt and probe. `fpt-ray predict --evidence` does it for any images, and scores it."""
