"""Class names, prompt templates, lexicons and caption augmentation."""
