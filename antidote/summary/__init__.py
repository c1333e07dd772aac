"""The last stage: collect all cells of a study into tables, plots and one report page."""
