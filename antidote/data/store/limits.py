"""What a picture may be at most, wherever it comes from: more is made to fill memory."""

LARGEST_PIXELS = 89_478_485  # of the whole picture; PIL's own limit
LONGEST = 100  # times its width: a pixel by 80 million is a small file, and grows when its shorter side is scaled
