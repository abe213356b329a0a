"""Pieces of policies that know no paper: heads, choices, actions, crops, subsets of frames, their losses."""
