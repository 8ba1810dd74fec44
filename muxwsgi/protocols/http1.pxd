# Types for the compiled build: see docs/compiled.md.

cdef unsigned char _SLASH, _CR, _LF
cdef bytes _OTHER_TARGETS
