# Compiled as it is, without types: see docs/compiled.md.
