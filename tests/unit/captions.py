"""Captions of the made-up pairs."""

CAPTIONS = (
    "a red banana lies on the table",
    "a small blue boat near the beach",
    "the large green cactus stands in front of a wall",
    "a banana beside a ball",
    "a yellow cup on the left",
    "a butterfly above a bone.",
    "two dogs",
    "a photo of a cloud",
    "a purple star, a grey moon",
    "the calm cottage",
)
