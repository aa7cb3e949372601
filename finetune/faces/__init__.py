"""Faces of labelled clips: 68 points (landmarks.py), crops by them (crops.py), regions of the face (regions.py)."""
