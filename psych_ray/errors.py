"""The exceptions a caller may see, one tree.

    PsychRayError                something the user can act on; the command line prints its one line, exit code 1
    ├── ConfigError              an override or a configuration value is wrong, exit code 2
    ├── UnsupportedError         asked for something that this version does not do
    ├── TranscriptError          a transcript, or the file it stands in, cannot be used
    │   ├── MarkerError          its response markers are unbalanced or nested
    │   └── RefusedError         a condition, or a checkpoint under it, cannot take this transcript
    ├── CheckpointError          a checkpoint cannot be found, read or trusted
    └── ResultsError             the results root holds something that does not fit this run

Every message is one line that says what is wrong, where, and what to do. A failed `assert` or any other exception
is a defect of ours and keeps its traceback.
"""


class PsychRayError(Exception):
    """Base of all errors that are the user's to mend."""

    exit_code = 1


class ConfigError(PsychRayError):
    """An override or a configuration value is wrong."""

    exit_code = 2


class UnsupportedError(PsychRayError):
    """A known option that this version does not carry out."""


class TranscriptError(PsychRayError):
    """A transcript, or the file it stands in, cannot be used."""


class MarkerError(TranscriptError):
    """Response markers that are unbalanced or nested."""


class RefusedError(TranscriptError):
    """A condition, or a checkpoint under it, cannot take this transcript."""

    def __init__(self, transcript_id: str, reason: str) -> None:
        super().__init__(reason)
        self.transcript_id = transcript_id


class CheckpointError(PsychRayError):
    """A checkpoint cannot be found, read or trusted."""


class ResultsError(PsychRayError):
    """The results root holds something that does not fit this run."""
