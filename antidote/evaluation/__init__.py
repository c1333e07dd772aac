"""Every figure of a cell: zero-shot scores, further measures, detection."""
