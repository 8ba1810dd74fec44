"""TLS with pyOpenSSL, as a transport over another transport.

There are two transports. Both have the methods of `Transport`, and `handshake`.

- `DescriptorTLS` gives the descriptor to OpenSSL, which then calls recv(2) and send(2) itself. It is the faster one. All bytes of the
  stream must still be in the kernel. So the mux looks at the first bytes of a TCP connection with MSG_PEEK.
- `LayeredTLS` moves records between two memory BIOs of OpenSSL and the transport below. It is used if bytes were read ahead, on a unix
  socket, in memory, and inside of another TLS layer.

The states of a layer
---------------------

    made -> open -> ended -> closed
      |       |       |
      +-------+-------+--> broken -> closed

made        Only `handshake` may be called. When it fails, the layer is broken.
open        One greenlet may read while others write. Writers take turns (`WriteTurn`).
ended       The peer has sent close_notify. `recv` returns b"". Writing is still possible: TLS has a half-close (RFC 8446 section 6.1).
broken      One of these has happened: OpenSSL or the transport below failed; the stream ended without close_notify (`recv` returns b"",
            and `truncated` is True); a write was interrupted (a Timeout, a kill) within a record; `abandon` was called. Nothing is
            written any more, and close_notify is not sent. So the peer sees an incomplete stream.
closed      The descriptor is closed. `close` never waits: it sends close_notify if there is room for it and no write is under way.

A broken layer never becomes open again, because the peer would take the next record for a damaged one.

Which greenlet waits where
--------------------------

handshake   The greenlet that called `start_tls`, on the lifeline's reader (WANT_READ) or its writer (WANT_WRITE). The caller sets the
            deadline.
recv        The reading greenlet, on the reader. In TLS 1.3 a read may have to write the answer to a KeyUpdate. If there is no room for
            it, the reading greenlet takes the write turn and waits on the writer. A blocked writer then sends the answer with its bytes.
sendall     The first attempt does not wait. If it would block, the greenlet takes the write turn, and waits on the writer until all is
            sent.
shutdown    As sendall: close_notify is a record.
close       No lock.

What must hold
--------------

- OpenSSL may hold decrypted bytes, which no watcher announces. So a read waits first only if the last one found no more (`_drained`).
- OpenSSL keeps the number of the descriptor. After a close, another connection may have this number. So before every write, and after the
  last wait, `_check` verifies that the layer is not broken.
- A write that would block is repeated with the same bytes: the record is encrypted already (SSL_write(3)).
- A peer that sends records without data (KeyUpdate) must not occupy the worker. So `SSL_read` returns after each record
  (`return_after_each_record`), and other greenlets run then. A timeout limits a whole `recv`, also if a record comes byte by byte.
- OpenSSL's errors do not leave this package. A fault that also exists on a plain socket raises the same `OSError`. All others raise
  `TLSError` or `HandshakeError`. OpenSSL keeps errors in a queue of the thread. The queue is emptied after each error (`forget_errors`),
  because otherwise the next connection would raise them.

Tried, and not used
-------------------

- pyOpenSSL's `recv` and `send` on the descriptor: 33 to 35 us a request, of which 6 to 8 are its wrapping. See `openssl.py`.
- cffi in the compiled build: it converts each argument and releases the GIL, for calls that never wait. See `descriptor.pxd`.
- Reading ahead in OpenSSL, which would save one of the two system calls for a record: no watcher announces the bytes that it holds then.
- Keeping OpenSSL's record buffers (SSL_MODE_RELEASE_BUFFERS off) and TCP_CORK around a handshake: no gain.
- pyOpenSSL's `recv_into`: it also reads into a separate buffer and copies.
- `Connection.use_certificate` for certificates by SNI: it sets the leaf only, and only contexts take chains. See
  `server_context.py`.
"""
