"""Limits on the size of a picture from any source; larger pictures are decompression bombs."""

LARGEST_PIXELS = 89_478_485  # pixels per picture; PIL's limit
LONGEST = 100  # longer side / shorter side: a file of 1 x 80 million pixels is small, and huge once it is scaled up
