"""Files as responses: a folder that is served (`folder.py`), and files that an application names (`handed_over.py`)."""
