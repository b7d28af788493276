"""Tensor mathematics and nothing else: no models, no files, no state.

Shapes:  N tokens laid out · T own tokens (those a loss is about) · R responses · G groups · H hidden · V vocabulary.
"""
