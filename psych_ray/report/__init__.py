"""From statistics to figures and the page.

Sentences, figures and tables are derived from `study.Findings` alone. Reads no transcripts and no results.
"""

from psych_ray.report.files import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
