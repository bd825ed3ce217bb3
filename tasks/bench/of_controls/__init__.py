"""The parts of ``run.py bench controls``: each has ``rows(small)``, which yields its rows as they are measured."""
