"""From statistics to figures and the page.

Everything shown is derived from `study.Findings`: the sentences, the figures and the tables say what the numbers say,
the opposite of the expected included. This room knows neither transcripts nor where results lie.
"""

from psych_ray.report.files import ReportFiles, write_report

__all__ = ["ReportFiles", "write_report"]
