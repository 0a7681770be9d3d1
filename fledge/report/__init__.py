"""The one page builder behind every HTML file that fledge writes: self-contained, escaped, readable offline and on a phone."""

from fledge.report.charts import Line
from fledge.report.page import Example, Page, Sample, Weighed

__all__ = ["Example", "Line", "Page", "Sample", "Weighed"]
