# Types for the compiled build: see docs/performance.md, "Compiled".

cdef unsigned char _SLASH, _CR
cdef bytes _OTHER_TARGETS
