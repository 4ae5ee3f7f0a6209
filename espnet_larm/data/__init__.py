"""Kaldi data folders, the corpora that fill them, and what a recipe does to them before training."""
