"""What prompt- and head-type defenses add to a CLIP, one per file; `antidote.registry` lists them."""
