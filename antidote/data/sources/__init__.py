"""Where pairs come from: one source per file; `antidote.base.registry` lists them."""
