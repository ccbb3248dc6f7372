"""What things cost, beside what others use. Run one as ``python -m benchmarks.NAME``."""
