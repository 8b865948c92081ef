"""Ranking models, one a module: *what* is learned, behind one small base (`models.base`)."""
