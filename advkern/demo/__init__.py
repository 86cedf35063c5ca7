"""The demo: each model of the package, trained on real data beside its eager twin.

A model joins by one file here that has ``experiments(device) -> list[Experiment]``; see ``gcn.py``.
"""
