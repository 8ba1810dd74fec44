"""TLS by pyOpenSSL, as a transport that stands on another one.

There are two transports. Both have the methods of `Transport`, and `handshake`.

- `DescriptorTLS` gives the descriptor to OpenSSL, which then calls recv(2) and send(2) itself. It is the fast one. It needs all bytes of
  the stream to be still in the kernel. So the mux looks at the first bytes of a TCP connection by MSG_PEEK.
- `LayeredTLS` moves records between two memory BIOs of OpenSSL and the transport below. It is used where bytes were read ahead, on a unix
  socket, in memory, and inside of another TLS layer.

The states of a layer
---------------------

    made -> open -> ended -> closed
      |       |       |
      +-------+-------+--> broken -> closed

made        Only `handshake` may be called. When it fails, the layer is broken.
open        One greenlet may read while others write. Writers take turns (`WriteTurn`).
ended       The peer has sent close_notify. `recv` returns b"". Writing goes on: TLS has half-close as TCP has (RFC 8446 section 6.1).
broken      One of these has happened: a fault of OpenSSL or of the transport below; an end of the stream without close_notify, which
            `recv` returns as b"" and `truncated` tells; a write that was interrupted (a Timeout, a kill) between two parts of a record;
            `abandon`. Nothing is written any more, and close_notify is not sent. So the peer sees an incomplete stream.
closed      The descriptor is closed. `close` never waits: it sends close_notify where there is room for it and no write is under way.

A layer is never open again after it was broken: the peer would take the next record for a damaged one.

Which greenlet waits where
--------------------------

handshake   The greenlet that called `start_tls`, on the lifeline's reader (WANT_READ) or its writer (WANT_WRITE). The caller sets the
            deadline.
recv        The reading greenlet, on the reader. In TLS 1.3 a read may have to write: the answer to a KeyUpdate. If there is no room for
            it, the reading greenlet takes the write turn and waits on the writer. A writer that is blocked then sends the answer with its
            own bytes.
sendall     The first attempt does not wait. If it would block, the greenlet takes the write turn, and waits on the writer until all is
            sent.
shutdown    As sendall: close_notify is a record.
close       No lock.

What must hold
--------------

- OpenSSL may hold decrypted bytes, which no watcher announces. So a read waits first only where the last one came short (`_drained`).
- OpenSSL knows a descriptor by its number, which another connection has after a close. So every write into it comes behind a check that
  the layer is not broken, made after the last wait (`_check`).
- A write that would block is repeated with the same bytes: the record is encrypted already (SSL_write(3)).
- A peer that sends records without data (KeyUpdate) must not keep the worker: `SSL_read` returns after each record
  (`return_after_each_record`), and each lets others run. A timeout limits the whole of a `recv`, also where a record comes byte by byte.
- OpenSSL's errors stop in this package: what the same fault is on a plain socket is the same `OSError` here, all else is `TLSError` or
  `HandshakeError`. OpenSSL keeps errors in a queue of the thread, which is emptied after each (`forget_errors`). Otherwise the next
  connection would raise them.

Tried, and not used
-------------------

- pyOpenSSL's `recv` and `send` on the descriptor: 33 to 35 us a request, of which 6 to 8 are its wrapping. See `openssl.py`.
- cffi in the compiled build: it converts each argument and gives the GIL away, for calls that never wait. See `descriptor.pxd`.
- Reading ahead in OpenSSL, which would save one of the two system calls for a record: no watcher announces what it holds back then.
- Keeping OpenSSL's record buffers (SSL_MODE_RELEASE_BUFFERS off) and TCP_CORK around a handshake: no gain.
- pyOpenSSL's `recv_into`: it reads into a separate buffer, and copies as well.
- `Connection.use_certificate` for certificates by SNI: it sets the leaf alone, and chains are given to contexts only. See
  `server_context.py`.
"""
