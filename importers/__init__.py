"""Importers: one reader per public file format, filters, covers. `prepare_dataset.py` of stage 1 is the script."""
