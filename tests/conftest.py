"""Settings of the whole suite."""

import os

# One thread a process: the models of the tests are so small that a second one only adds waiting.
os.environ.setdefault("OMP_NUM_THREADS", "1")
