"""The start of a run: its config, its bounds, its folder and what it tells before the first step."""
