"""Class names, templates and lexicons."""
