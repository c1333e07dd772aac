"""The last stage: every cell of a study gathered into tables, plots and one page."""
