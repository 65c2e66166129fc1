"""A page to look at: an evaluation's folder in, one self-contained HTML file out."""

from prm.benchmarks.page.build import PageConfig, build_page

__all__ = ["PageConfig", "build_page"]
