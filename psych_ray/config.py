"""The schema of the configuration: plain dataclasses, one field per setting.

YAML in `conf/` holds only values; a setting that is not in it has its default here. Imports neither Hydra nor torch nor
Ray: the command line resolves a configuration to these classes first. A `__post_init__` raises ValueError with one line
that names the setting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Final

from psych_ray.usable import require_usable

_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?(@[^@\s]+)?")
MAX_SECONDS = 30 * 86_400.0
MAX_LENGTH = 2**31 - 1
"""Of a transcript, in tokens or characters: places in it are 32-bit numbers."""
MAX_ID_CHARACTERS = 200
"""Of a checkpoint; its name is part of the names of folders."""


class Stage(StrEnum):
    """Training of a checkpoint after pre-training."""

    base = "base"
    instruct = "instruct"
    reasoning = "reasoning"
    vision = "vision"
    vision_reasoning = "vision_reasoning"
    code = "code"
    math = "math"
    behavioural = "behavioural"


class CheckpointSource(StrEnum):
    """Where the checkpoints of a sweep come from."""

    demo = "demo"
    local = "local"
    hub = "hub"


class Reference(StrEnum):
    """What checkpoints are compared with: predicts responses from earlier responses, without weights."""

    chance = "chance"
    """All options of the participant are as probable."""
    frequencies = "frequencies"
    """How often the participant has chosen each option so far."""
    rescorla_wagner = "rescorla_wagner"
    """A learner with two parameters, fitted to the same responses of each participant; for some bandits only."""


class TranscriptSource(StrEnum):
    """Where the transcripts of a sweep come from."""

    demo = "demo"
    files = "files"
    psych201 = "psych201"
    psych101 = "psych101"


class DataSet(StrEnum):
    """Which of the hub's data sets."""

    test = "test"
    """Up to 100 participants of each study."""
    discrete_test = "discrete_test"
    """The same, with markers only around responses that are a single capital letter."""
    full = "full"


class Collection(StrEnum):
    """The data set for which a study was first collected, by `is_psych101`."""

    psych101 = "psych101"
    psych201 = "psych201"


class Normalise(StrEnum):
    """What is done to the records of contributed studies."""

    psych201 = "psych201"
    """What was done to them for the hub's Psych-201: metadata renamed and cast, texts repaired, studies left out."""
    none = "none"


class OnError(StrEnum):
    """What happens when a transcript cannot be used."""

    stop = "stop"
    skip = "skip"


class EngineName(StrEnum):
    """How a replica holds and runs the weights."""

    auto = "auto"
    transformers = "transformers"
    deepspeed_tp = "deepspeed_tp"
    deepspeed_zero = "deepspeed_zero"


class Dtype(StrEnum):
    """Number format of weights and activations; likelihoods are always computed in float32."""

    float32 = "float32"
    bfloat16 = "bfloat16"


class CutBy(StrEnum):
    """Unit in which the length of a transcript is counted."""

    tokens = "tokens"
    characters = "characters"


class ClusterKind(StrEnum):
    """Ray cluster on which the sweep runs."""

    local = "local"
    existing = "existing"


class Notices(StrEnum):
    """Whose metadata service is asked whether the cloud will take a node back."""

    auto = "auto"
    """That of the cloud which the node is on, by what its firmware says; elsewhere nothing is asked."""
    none = "none"
    aws = "aws"
    gcp = "gcp"
    azure = "azure"


class TrackingKind(StrEnum):
    """Where the progress of a sweep is shown."""

    console = "console"
    wandb = "wandb"


class TrackingMode(StrEnum):
    """Whether Weights & Biases writes to disk only or also to its server."""

    offline = "offline"
    online = "online"


@dataclass(kw_only=True)
class CheckpointCard:
    """Description of one checkpoint, available before it is loaded."""

    id: str
    """Hub id, or the name of a local checkpoint."""
    path: str | None = None
    """Directory in the hub's layout; None: fetched from the hub by its id."""
    revision: str | None = None
    """Hub revision; None: the commit of `main` when the sweep is planned."""
    family: str = "unknown"
    """For example llama, olmo, qwen."""
    generation: str = "unknown"
    """For example qwen2.5."""
    size_b: float | None = None
    """Billions of parameters, as in the checkpoint's name."""
    stage: Stage | None = None
    """None: not known; the checkpoint is scored and listed, but not compared with a base."""
    base: str | None = None
    """Id of the base checkpoint that this one is compared with."""
    quantization: str | None = None
    """For example bnb-4bit."""
    adapter: bool = False
    """The weights are an adapter of `base`."""
    trust_remote_code: bool = False
    """Run modelling code that comes with the checkpoint; only the configuration's own cards can say so."""

    def __post_init__(self) -> None:
        if not self.id.strip() or not self.id.isprintable():
            raise ValueError(f"a card's id is {self.id!r}: must be a name")
        if len(self.id) > MAX_ID_CHARACTERS:
            raise ValueError(f"a card's id has {len(self.id)} characters: at most {MAX_ID_CHARACTERS}")
        if self.size_b is not None and not 0 < self.size_b < 1e6:
            raise ValueError(f"the card of {self.id} has size_b={self.size_b}: must be above 0, in billions")


@dataclass(kw_only=True)
class CheckpointsConfig:
    """Which checkpoints are swept."""

    source: CheckpointSource = CheckpointSource.demo
    paths: list[str] = field(default_factory=list)
    """For local: directories in the hub's layout (config.json, *.safetensors, tokenizer)."""
    only: list[str] = field(default_factory=list)
    """Keep the checkpoints whose id matches one of these globs; empty: all. Does not concern references."""
    references: list[Reference] = field(default_factory=list)
    """Also score these, which need no weights; their NLL depends on no condition, so each is scored under one: plain,
    or the first of a sweep without plain."""
    listed: list[str] = field(default_factory=list)
    """For hub: the checkpoints of psych_ray/checkpoints/listed.yaml whose id matches one of these globs."""
    ids: list[str] = field(default_factory=list)
    """For hub: further checkpoints, each ORG/NAME or ORG/NAME@REVISION."""
    cards: list[CheckpointCard] = field(default_factory=list)
    """For hub: descriptions of these checkpoints, and further ones. What a card does not say of family, generation,
    size_b, stage and base is taken from that list, from the hub's model card or from the name."""
    allow_pickle: bool = False
    """Also load weights that are not safetensors; unpickling runs code from the checkpoint."""
    trust_remote_code: list[str] = field(default_factory=list)
    """Run the modelling code of these checkpoints: globs of ids (hub), and of absolute paths of directories (local)."""
    cache: str = "~/.cache/psych-ray"
    """Directory of the demo checkpoints."""
    disk: str | None = None
    """Directory on each node's own disk to which weights are fetched before they are loaded; None: they are read where
    they lie."""
    disk_gb: float | None = None
    """Limit of what is kept in `disk`, 1e9 bytes; None: 90 % of what is free there and used by it."""

    def __post_init__(self) -> None:
        if self.source == CheckpointSource.local and not self.paths:
            raise ValueError("checkpoints=local needs checkpoints.paths=[DIR,...]")
        if self.source == CheckpointSource.hub and not (self.ids or self.listed or self.cards):
            raise ValueError("checkpoints=hub needs checkpoints.ids=[ORG/NAME,...]")
        for one in self.ids:
            if not _HUB_ID.fullmatch(one):
                raise ValueError(f"checkpoints.ids: {one} must be ORG/NAME or ORG/NAME@REVISION")
        if len(set(self.references)) < len(self.references):
            raise ValueError(f"checkpoints.references={list(map(str, self.references))}: one is named twice")
        if self.disk is not None and not self.disk.startswith(("/", "~")):
            raise ValueError(f"checkpoints.disk={self.disk}: must be an absolute path, the same on every node")
        if self.disk_gb is not None and (self.disk is None or not 0 < self.disk_gb < float("inf")):
            raise ValueError(f"checkpoints.disk_gb={self.disk_gb}: must be above 0, and checkpoints.disk be set")


@dataclass(kw_only=True)
class TranscriptsConfig:
    """Which transcripts are scored."""

    source: TranscriptSource = TranscriptSource.demo
    path: str | None = None
    """For files: .jsonl, .jsonl.zip, .parquet, or a folder of studies. For psych201 and psych101: a local copy."""
    dataset: DataSet = DataSet.test
    """For psych201 and psych101 on the hub: test, discrete_test (psych201 only) or full."""
    collection: Collection | None = None
    """Keep the studies that came with Psych-101, or those that came with Psych-201; None: both."""
    studies: list[str] = field(default_factory=list)
    """Keep the studies that match one of these globs; empty: all."""
    limit: int | None = None
    """The first N participants (transcripts) of each study, of the sample where there is one; None: all."""
    sample: int | None = None
    """At most N transcripts of each study, drawn at random, for which the source is read twice; None: all."""
    sample_fraction: float | None = None
    """At most this part of a study's transcripts, rounded down, drawn at random: 0.1 with sample=100 is the size of the
    hub's test set. None: all."""
    normalise: Normalise = Normalise.psych201
    """psych201: contributions are read as the hub's Psych-201 holds them; none: as they are."""
    on_error: OnError = OnError.stop
    """A transcript, or a file of a folder, that cannot be used stops the sweep before it starts, or is skipped and
    listed."""
    participants: int = 24
    """For demo: simulated participants of each task."""
    seed: int = 201
    """Of all that is drawn, the sample and the demo's participants: the same seed gives the same transcripts."""

    def __post_init__(self) -> None:
        if self.source == TranscriptSource.files and self.path is None:
            raise ValueError("transcripts=files needs transcripts.path=PATH")
        hub = {TranscriptSource.psych101, TranscriptSource.psych201}
        if self.dataset != DataSet.test and (self.path is not None or self.source not in hub):
            raise ValueError(
                f"transcripts.dataset={self.dataset} is of the hub: for transcripts=psych201, without a path"
            )
        if self.dataset == DataSet.discrete_test and self.source == TranscriptSource.psych101:
            raise ValueError("transcripts.dataset=discrete_test: Psych-101 has none; take transcripts=psych201")
        if self.collection is not None and self.source == TranscriptSource.demo:
            raise ValueError(f"transcripts.collection={self.collection}: the demo's studies are of neither")
        if self.limit is not None and self.limit < 1:
            raise ValueError(f"transcripts.limit={self.limit}: must be 1 or more")
        if self.sample is not None and self.sample < 1:
            raise ValueError(f"transcripts.sample={self.sample}: must be 1 or more")
        if self.sample_fraction is not None and not 0 < self.sample_fraction <= 1:
            raise ValueError(f"transcripts.sample_fraction={self.sample_fraction}: must be above 0, and at most 1")
        if self.participants < 1:
            raise ValueError(f"transcripts.participants={self.participants}: must be 1 or more")
        if self.seed < 0:
            raise ValueError(f"transcripts.seed={self.seed}: must be 0 or more")

    @property
    def is_sample(self) -> bool:
        """Whether transcripts are drawn at random."""
        return self.sample is not None or self.sample_fraction is not None


@dataclass(kw_only=True)
class ScoringConfig:
    """How responses are scored. `dtype`, `cut`, `cut_at` and `parity` change scores; a results root holds one set."""

    engine: EngineName = EngineName.auto
    dtype: Dtype = Dtype.float32
    cut: CutBy = CutBy.tokens
    cut_at: int | None = None
    """Length at which transcripts are cut; None: the checkpoint's context (tokens) or 32,768 (characters)."""
    parity: bool = False
    """Follow the rules of the study's authors in everything."""
    calibration: bool = True
    """Also keep the NLL at eight temperatures and the probability of the participant's options."""
    device: str = "auto"
    """auto (a GPU where the replica has one), cpu or cuda."""
    nvme: str | None = None
    """For deepspeed_zero: directory on each node's own disk for the weights; None: the node's memory."""
    unit_seconds: float = 60.0
    """Approximate duration of a unit; at most this much work is lost when a replica dies."""

    def __post_init__(self) -> None:
        if self.cut_at is not None and self.cut_at < 2:
            raise ValueError(f"scoring.cut_at={self.cut_at}: must be 2 or more")
        if self.cut_at is not None and self.cut_at > MAX_LENGTH:
            raise ValueError(f"scoring.cut_at={self.cut_at}: must be at most {MAX_LENGTH}")
        if not 0 < self.unit_seconds <= MAX_SECONDS:
            raise ValueError(f"scoring.unit_seconds={self.unit_seconds}: must be above 0 and at most {MAX_SECONDS:.0f}")
        if self.device not in {"auto", "cpu", "cuda"}:
            raise ValueError(f"scoring.device={self.device}: must be auto, cpu or cuda")


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster on which the sweep runs.

    Placement and size of units follow from its shape: this machine's, that of the running cluster, or, for `plan`, the
    one described by `nodes`.
    """

    kind: ClusterKind = ClusterKind.local
    address: str = "auto"
    """For existing: address of the running Ray cluster."""
    nodes: int | None = None
    """For plan: number of nodes of a cluster that is not running, each with `cpus`, `gpus`, `gpu_memory_gb`,
    `memory_gb`; None: the shape is read."""
    cpus: int | None = None
    """CPU cores per node. For local: None: all; for a described cluster: None: 4 per GPU."""
    gpus: int | None = None
    """GPUs per node. For local: None: all that are found; for a described cluster: None: none."""
    gpu_memory_gb: float | None = None
    """Memory of one GPU, 1e9 bytes; None: read on the nodes."""
    memory_gb: float | None = None
    """Host memory per node, 1e9 bytes; None: read on the nodes."""
    ranks: int | None = None
    """Processes, one GPU each, that hold one checkpoint together with a deepspeed engine; None: as few as hold it."""
    across_nodes: bool = False
    """The ranks of one checkpoint may be placed on several nodes."""
    stall_seconds: float = 600.0
    """A rank that shows no progress with a unit for longer is lost; more where one transcript takes long."""
    load_seconds: float = 1800.0
    """A rank that shows no progress while it loads for longer is lost."""
    place_seconds: float = 3600.0
    """Weights for whose replica Ray finds no place for longer are given up."""
    replicas: int | None = None
    """Replicas of one checkpoint at a time at most; None: as many as pay for their load time."""
    cpus_per_replica: int | None = None
    """CPU cores per rank; None: the cores of a node divided by the ranks that it can hold."""
    attempts: int = 2
    """Number of times that a unit may fail before it is split or skipped, and that a replica may fail to load."""
    price_per_gpu_hour: float | None = None
    """For plan: price of one GPU for an hour, in any currency; None: no price is shown."""

    notices: Notices = Notices.auto
    """Cloud whose notices of preemption are watched for, on every node: auto, none, aws, gcp or azure."""

    def __post_init__(self) -> None:
        for name in ("nodes", "cpus", "cpus_per_replica", "attempts", "ranks", "replicas"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"cluster.{name}={value}: must be 1 or more")
        if self.gpus is not None and self.gpus < 0:
            raise ValueError(f"cluster.gpus={self.gpus}: must be 0 or more")
        for name in ("gpu_memory_gb", "memory_gb", "price_per_gpu_hour"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"cluster.{name}={value}: must be above 0")
        for name in ("stall_seconds", "load_seconds", "place_seconds"):
            value = getattr(self, name)
            if not 0 < value <= MAX_SECONDS:
                raise ValueError(f"cluster.{name}={value}: must be above 0 and at most {MAX_SECONDS:.0f}")
        self._refuse_settings_without_effect()

    def _refuse_settings_without_effect(self) -> None:
        if self.nodes is not None and self.gpu_memory_gb is not None and not self.gpus:
            raise ValueError(f"cluster.gpu_memory_gb={self.gpu_memory_gb} with cluster.nodes: set cluster.gpus as well")
        if self.kind == ClusterKind.local and self.address != "auto":
            raise ValueError(f"cluster.address={self.address} is for cluster=existing")
        if self.kind == ClusterKind.existing and self.nodes is None:
            for name in ("cpus", "gpus"):
                if getattr(self, name) is not None:
                    raise ValueError(f"cluster.{name}: the running cluster is read; omit it")


@dataclass(kw_only=True)
class ResultsConfig:
    """Where the tables are written."""

    root: str = "outputs"
    """Local path, or s3:// or gs:// URI."""
    lease_seconds: float = 60.0
    """A sweep that has not answered for so long, by the clock of the storage, is taken over by the next one."""
    unreachable_seconds: float = 900.0
    """A sweep whose bucket does not answer for so long ends; shorter gaps only delay it."""

    def __post_init__(self) -> None:
        for name in ("lease_seconds", "unreachable_seconds"):
            value = getattr(self, name)
            if not 1 <= value <= MAX_SECONDS:
                raise ValueError(f"results.{name}={value}: must be 1 to {MAX_SECONDS:.0f}")


@dataclass(kw_only=True)
class TrackingConfig:
    """Where the progress of a sweep is shown, beside the terminal."""

    kind: TrackingKind = TrackingKind.wandb
    mode: TrackingMode = TrackingMode.offline
    project: str = "psych-ray"
    """Of Weights & Biases."""
    entity: str | None = None
    """Of Weights & Biases: the account or team; None: its default."""
    name: str | None = None
    """Name of the sweep, the group of its W&B runs; None: the last component of results.root."""
    root: str | None = None
    """Directory of W&B's files; None: in results.root, or in the working directory when that is a URI."""


@dataclass(kw_only=True)
class StudyConfig:
    """What is known of studies beside their transcripts."""

    domains: str | None = None
    """YAML file with domains of studies, in the form of psych_ray/study/domains.yaml, added to those; None: no more."""
    mixed_model: bool = False
    """Fit a mixed model to the differences of pairs: stage, size and generation, with studies and participants."""


FINDINGS: Final = (
    "nll_by_size",
    "misalignment_by_stage",
    "generations",
    "domains",
    "accuracy",
    "chat",
    "persona",
    "other_conditions",
    "behavioural",
    "overconfidence",
    "calibration_curve",
    "forest",
    "floors",
    "learning",
    "groups",
    "reaction_times",
    "influence",
    "published",
)
"""Of a report, in its order."""


@dataclass(kw_only=True)
class ReportConfig:
    """Where figures and page are written, and what is on the page."""

    root: str | None = None
    """None: `report` in results.root, or in the working directory when that is a URI."""
    figures: list[str] = field(default_factory=list)
    """Findings on the page, each with its figure, by name, for example [domains,forest]; empty: all."""
    transcripts: int = 24
    """Transcripts in the page's viewer, those in which checkpoints differ most; 0: no viewer."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.figures if name not in FINDINGS]:
            raise ValueError(f"report.figures={unknown}: no such findings; there are {', '.join(FINDINGS)}")
        if not 0 <= self.transcripts <= 500:
            raise ValueError(f"report.transcripts={self.transcripts}: must be 0 to 500")


@dataclass(kw_only=True)
class PlanConfig:
    """What psych-ray plan shows."""

    all: bool = False
    """Show every task and checkpoint, also of more than 20 checkpoints, which are otherwise shown by generation."""
    picture: str | None = None
    """File for a picture of who runs when, .html, .png, .pdf or .svg; None: none."""
    preempted_every_hours: float | None = None
    """Mean time between preemptions of a node, each replaced after three minutes; None: nodes stay."""

    def __post_init__(self) -> None:
        if self.picture is not None and Path(self.picture).suffix not in {".html", ".png", ".pdf", ".svg"}:
            raise ValueError(f"plan.picture={self.picture}: must end with .html, .png, .pdf or .svg")
        if self.preempted_every_hours is not None and not 0.1 <= self.preempted_every_hours < float("inf"):
            raise ValueError(f"plan.preempted_every_hours={self.preempted_every_hours}: must be 0.1 or more")


@dataclass(kw_only=True)
class Config:
    """The whole configuration."""

    checkpoints: CheckpointsConfig = field(default_factory=CheckpointsConfig)
    transcripts: TranscriptsConfig = field(default_factory=TranscriptsConfig)
    conditions: list[str] = field(default_factory=lambda: ["plain"])
    """How a transcript is presented to a checkpoint: names of conditions."""
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    cluster: ClusterConfig = field(default_factory=ClusterConfig)
    results: ResultsConfig = field(default_factory=ResultsConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    study: StudyConfig = field(default_factory=StudyConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    plan: PlanConfig = field(default_factory=PlanConfig)
    repair: bool = False
    """For verify: drop what is bad, so that the next sweep scores it again."""

    def __post_init__(self) -> None:
        require_usable(self)
        if not self.conditions:
            raise ValueError("conditions=[]: name at least one, for example conditions=[plain]")
        if len(set(self.conditions)) < len(self.conditions):
            raise ValueError(f"conditions={self.conditions}: one is named twice")
        if self.scoring.engine == EngineName.transformers:
            if self.cluster.ranks not in {None, 1}:
                raise ValueError(
                    f"cluster.ranks={self.cluster.ranks} with scoring.engine=transformers: one process holds a "
                    "checkpoint there; scoring.engine=auto or a deepspeed engine takes more"
                )
            if self.cluster.across_nodes:
                raise ValueError("cluster.across_nodes=true with scoring.engine=transformers: one process has no ranks")
        if self.scoring.nvme is not None and self.scoring.engine in {EngineName.transformers, EngineName.deepspeed_tp}:
            raise ValueError(f"scoring.nvme with scoring.engine={self.scoring.engine}: only deepspeed_zero uses it")

    def report_root(self) -> Path:
        """Directory of figures and page."""
        return Path(self.report.root).expanduser() if self.report.root else self._beside_results("report")

    def tracking_root(self) -> Path:
        """Directory of the tracking files."""
        return Path(self.tracking.root).expanduser() if self.tracking.root else self._beside_results("tracking")

    def _beside_results(self, name: str) -> Path:
        root = self.results.root
        return Path(name) if "://" in root else Path(root).expanduser() / name
