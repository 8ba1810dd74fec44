# Types for the compiled build: see docs/performance.md, "Compiled".

from muxwsgi.wire.syscalls cimport accept_one
