# Compiled as it stands: see docs/performance.md, "Compiled".
