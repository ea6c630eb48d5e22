"""From statistics to figures and the page.

Sentences, figures and tables are derived from `study.tables.Findings` alone. Reads no transcripts and no results.
"""

from psych_ray.report.files import ReportFiles, write_report
from psych_ray.report.viewer import ViewedTranscript

__all__ = ["ReportFiles", "ViewedTranscript", "write_report"]
