"""Sources of transcripts: files and data sets, read as one stream of `Transcript` records.

Each layout has a reader that returns the plain fields of records; `fields` validates them and makes transcripts;
`selection` selects studies and participants. Does not depend on tokens or checkpoints.
"""

from psych_ray.transcripts.sources.errors import LeftOut, Skipped
from psych_ray.transcripts.sources.reading import read_transcripts

__all__ = ["LeftOut", "Skipped", "read_transcripts"]
