"""Answers drawn over what they are about: boxes and masks over frames, one after the other along a video."""
