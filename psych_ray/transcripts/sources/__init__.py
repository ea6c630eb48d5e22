"""Sources: whatever holds transcripts, read as one stream of `Transcript` records.

A reader for each layout turns files into plain fields; one place turns fields into transcripts and says what is wrong
with them; one place chooses studies and participants. Nothing here knows tokens, checkpoints or what a response is
worth.
"""

from psych_ray.transcripts.sources.faults import Skipped
from psych_ray.transcripts.sources.reading import read_transcripts

__all__ = ["Skipped", "read_transcripts"]
