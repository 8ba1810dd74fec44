"""TLS transports: pyOpenSSL on a descriptor, and through memory BIOs over any other transport.

The descriptor is the fast way (OpenSSL reads and writes the socket itself) and right whenever the socket's bytes are all still
in the kernel. Once some were read ahead, or below another TLS layer, the memory BIOs serve.

What both must get right:

- After a read that filled its buffer OpenSSL may hold more of the record, which no watcher will announce. Wait only when the last
  read came short.
- A write that was cut off half way (a Timeout, a kill) leaves a torn record. The layer is `broken` then: it can be closed, not
  written to, and no `SSL_shutdown` is tried on it. One writer at a time: see `WriteTurn`.
- Records without application data (KeyUpdate) keep `SSL_read` going inside OpenSSL for as long as the peer sends them. A worker must not
  be in there that long: see `return_after_each_record`.
- OpenSSL's errors stop here. A peer that ends without close_notify reads as the end of the stream, and the transport is `truncated`
  then; everything else comes out as the `OSError` that the same fault has on a plain socket, or as `TLSError`.
"""
