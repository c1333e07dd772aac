"""The static site: the documentation as it is, a page per method, the leaderboard of each track with its plots."""
