"""Where pairs come from: one source per file; `antidote.registry` lists them."""
