"""Boxes in frames: their arithmetic, anchors, the loss of a network that finds them, its scores, drawing.

Nothing here knows of tasks, configs or files. Boxes are x1, y1, x2, y2 (left, top, right, bottom) in shares
of the frame or clip, from 0 to 1. Axes: B examples, N, M, P boxes, K classes, A anchors.
"""
